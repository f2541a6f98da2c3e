"""How the lists of entity tags in If-Match and If-None-Match are read."""

import pytest
import sqlalchemy

from production.tags import is_known, read_tags, unchanged

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


def is_unchanged(lines: list[str]) -> bool:
    """Ask a database whether version 1 is one of those that If-Match names."""
    version = sqlalchemy.literal(1)
    engine = sqlalchemy.create_engine("sqlite://")
    with engine.connect() as connection:
        found = connection.scalar(
            sqlalchemy.select(version).where(*unchanged(version, read_tags(lines)))
        )
    engine.dispose()
    return found == 1


@pytest.mark.parametrize("lines", MATCHING)
def test_a_list_with_the_tag_of_a_version_names_it(lines: list[str]) -> None:
    assert is_known(1, read_tags(lines))
    assert is_unchanged(lines)


@pytest.mark.parametrize("lines", WEAK)
def test_a_list_with_the_weak_tag_of_a_version_names_it_to_readers_only(lines: list[str]) -> None:
    assert is_known(1, read_tags(lines))
    assert not is_unchanged(lines)


@pytest.mark.parametrize("lines", NOT_MATCHING)
def test_a_list_without_the_tag_of_a_version_or_malformed_does_not_name_it(
    lines: list[str],
) -> None:
    assert not is_known(1, read_tags(lines))
    assert not is_unchanged(lines)
