"""How the lists of entity tags in If-Match and If-None-Match are read."""

import pytest
from fastapi import HTTPException, Request

from production.http.preconditions import Preconditions

# What If-Match or If-None-Match may say of a user whose tag is "1", each a list of header lines.
MATCHING = [
    ['"1"'],
    ["*"],
    ['"other", "1"'],
    ['"other","1"'],
    ['"other"', '"1"'],
    ['"1"', '"other"'],
    ['W/"other" , "1"'],
    [', ,"1",,'],
    ["", '"1"', ","],
    ['"a,b", "1"'],
]
NOT_MATCHING = [
    ['"2"'],
    ['"2"', '"3"'],
    ["1"],
    [""],
    [",,"],
    ['"1'],
    ['1"'],
    ['"x"1"x"'],
    ['"1" "2"'],
    ['"2" "1"'],
    ['"1" x'],
    ['x, "1"'],
    ['"1"', "x"],
    ['*, "1"'],
    ["*", "*"],
    ['w/"1"'],
    ['W/ "1"'],
    ['",", "2"'],
    ['"2,"1",3"'],
]
# A weak tag matches for If-None-Match only.
WEAK = [['W/"1"'], ['"other", W/"1"']]


def answer(method: str, header: str, lines: list[str]) -> int:
    """Return the status of a request with these lines, for a resource in version 1."""
    headers = [(header.encode(), line.encode()) for line in lines]
    request = Request({"type": "http", "method": method, "headers": headers})
    try:
        Preconditions(request).check(1)
    except HTTPException as refusal:
        return refusal.status_code
    return 200


@pytest.mark.parametrize("lines", MATCHING)
def test_a_list_with_the_tag_of_a_version_names_it(lines: list[str]) -> None:
    assert answer("GET", "if-none-match", lines) == 304
    assert answer("PATCH", "if-none-match", lines) == 412
    assert answer("PATCH", "if-match", lines) == answer("GET", "if-match", lines) == 200


@pytest.mark.parametrize("lines", WEAK)
def test_a_list_with_the_weak_tag_of_a_version_names_it_to_readers_only(lines: list[str]) -> None:
    assert answer("GET", "if-none-match", lines) == 304
    assert answer("PATCH", "if-match", lines) == 412


@pytest.mark.parametrize("lines", NOT_MATCHING)
def test_a_list_without_the_tag_of_a_version_or_malformed_does_not_name_it(
    lines: list[str],
) -> None:
    assert answer("GET", "if-none-match", lines) == 200
    assert answer("PATCH", "if-match", lines) == 412
