"""Whatever is sent: a clear 4xx in JSON, nothing stored, nothing repeated, nobody else kept out."""

import gzip
import json
import re
import subprocess
import sys
import threading
import time
import unicodedata
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from helpers import (
    ADA,
    BODY,
    BODY_SENT,
    GRACE,
    JSON,
    MIB,
    TOKEN,
    add,
    add_many,
    connect,
    half_a_post,
    memory,
    refused,
    slow_readers,
)
from production.settings import LOCK_TIMEOUT
from schemas import UserRead
from service import ROOT, StartService

DIGITS = b"9" * 5000
BODIES = {
    "nothing": b"",
    "half of it": b'{"name": "Ada", "ema',
    "more after it": b'{"name": "Ada", "email": "ada@example.com"} {}',
    "no object": b'"Ada"',
    "null": b"null",
    "NUL": b'{"name": "A\\u0000da", "email": "ada@example.com"}',
    "NUL, not escaped": b'{"name": "A\x00da", "email": "ada@example.com"}',
    "NUL in the e-mail": b'{"name": "Ada", "email": "a\\u0000da@example.com"}',
    "a control character": b'{"name": "A\\u001bda", "email": "ada@example.com"}',
    "a C1 control character": b'{"name": "A\\u0085da", "email": "ada@example.com"}',
    "a line break": b'{"name": "A\\nda", "email": "ada@example.com"}',
    "a lone surrogate": b'{"name": "A\\ud800da", "email": "ada@example.com"}',
    "a lone surrogate in the e-mail": b'{"name": "Ada", "email": "\\udc00@example.com"}',
    "a lone surrogate for a field": b'{"name": "Ada", "email": "ada@example.com", "\\ud800": 1}',
    "NaN": b'{"name": NaN, "email": "ada@example.com"}',
    "Infinity": b'{"name": "Ada", "email": Infinity}',
    "-Infinity": b"[-Infinity]",
    "1e999": b'{"name": "Ada", "email": 1e999}',
    "5,000 digits": b'{"name": ' + DIGITS + b', "email": "ada@example.com"}',
    "5,000 digits more": b'{"name": "Ada", "email": "ada@example.com", "id": ' + DIGITS + b"}",
    "deep": b"[" * 60_000,
    "deep and complete": b"[" * 30_000 + b"]" * 30_000,
    "deep in a field": b'{"name": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001,
    "not UTF-8": b'{"name": "\xff\xfe", "email": "ada@example.com"}',
    "Latin-1": '{"name": "Zoé", "email": "ada@example.com"}'.encode("latin-1"),
    "half a character": b'{"name": "Ada", "email": "ada@example.com\xc3',
    "an unknown field": b'{"name": "Ada", "email": "ada@example.com", "role": "admin"}',
    "an id": b'{"name": "Ada", "email": "ada@example.com", "id": 1}',
    "an explicit null": b'{"name": null, "email": null}',
    "other types": b'{"name": ["Ada"], "email": {"ada": "example.com"}}',
    "a long name": b'{"name": "' + b"x" * 60_000 + b'", "email": "ada@example.com"}',
    "a long e-mail": b'{"name": "Ada", "email": "' + b"x" * 60_000 + b'@example.com"}',
    "two e-mails": b'{"name": "Ada", "email": "ada@example.com,grace@example.com"}',
}
CONTENT_TYPES = [
    "text/plain",
    "text/html",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/xml",
    "nonsense",
    None,
]
NUMBERS = [
    *("+1", "1.0", "%201", "1%20", "01", "1_0", "1e0", "0x1", "-1", "x", "%00", "1%00", "%ff"),
    *("1;1", "%D9%A1", "%EF%BC%91", "NaN", "Infinity", "null", "true", "1%0A"),
    *(str(2**53), str(2**64), "9" * 5000),
]

# The client is the same for all the examples of a test.
examples = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_a_body_that_is_not_a_user_is_refused_and_changes_nothing(
    client: httpx.Client, body: bytes
) -> None:
    grace = add(client, GRACE)

    for method, address in (("POST", "/users"), ("PATCH", grace.headers["location"])):
        answer = client.request(method, address, content=body, headers=JSON)

        refused(answer)
        assert len(answer.content) < 1000  # it does not say again what it was told
        for secret in ("x" * 100, "9" * 100, "admin", "[[["):
            assert secret not in answer.text
    assert client.get("/users").json() == [grace.json()]
    assert client.get(grace.headers["location"]).headers["etag"] == '"1"'


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
def test_another_content_type_is_refused(client: httpx.Client, content_type: str | None) -> None:
    request = client.build_request("POST", "/users", content=BODY)
    if content_type is not None:
        request.headers["Content-Type"] = content_type

    answer = client.send(request)

    assert answer.status_code == 415
    assert "Content-Type: application/json" in refused(answer)["detail"]
    assert client.patch("/users/1", content=BODY).status_code == 415
    assert client.get("/users").json() == []


def test_a_compressed_body_is_refused_with_a_sentence_of_its_own(client: httpx.Client) -> None:
    address = add(client, GRACE).headers["location"]
    headers = JSON | {"Content-Encoding": "gzip"}

    for method, path in (("POST", "/users"), ("PATCH", address)):
        for content in (gzip.compress(BODY), BODY):
            answer = client.request(method, path, content=content, headers=headers)

            assert answer.status_code == 415
            assert "compressed" in refused(answer)["detail"]
    assert client.get(address).headers["etag"] == '"1"'
    plain = JSON | {"Content-Encoding": "Identity"}
    assert client.post("/users", content=BODY, headers=plain).status_code == 201


@pytest.mark.parametrize("number", NUMBERS, ids=[number[:20] for number in NUMBERS])
def test_a_number_has_one_spelling_and_53_bits(client: httpx.Client, number: str) -> None:
    ada = add(client, ADA)

    for method in ("GET", "PATCH", "DELETE"):
        content = b'{"name": "Changed"}' if method == "PATCH" else None
        refused(client.request(method, f"/users/{number}", content=content, headers=JSON))
    refused(client.get(f"/users?limit={number}"))
    refused(client.get(f"/users?after={number}"))

    assert client.get("/users").json() == [ada.json()]


def test_an_email_to_look_for_is_checked_like_one_to_store(client: httpx.Client) -> None:
    for email in ("%00", "a%00@example.com", "%ff", "'%20OR%201=1%20--", "x" * 5000, "%ED%A0%80"):
        refused(client.get(f"/users?email={email}"))


def test_sql_in_a_name_is_only_a_name(client: httpx.Client) -> None:
    name = "Robert'); DROP TABLE users; -- %s :name ?"

    robert = add(client, ADA | {"name": name})

    assert client.get(robert.headers["location"]).json()["name"] == name


# Code points that show nothing, and those that turn the direction of the text around them.
INVISIBLE = [
    *(0xA0, 0xAD, 0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180E, 0x200B, 0x200C, 0x200D),
    *(0x2028, 0x2060, 0x2064, 0x2065, 0x206A, 0x206F, 0x2800, 0x3000, 0x3164, 0xFE00, 0xFE0F),
    *(0xFEFF, 0xFFA0, 0xFFF0),
]
TURNING = [0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]


def test_a_name_of_which_nothing_can_be_seen_is_refused(client: httpx.Client) -> None:
    ada = add(client, ADA)

    for name in [*map(chr, INVISIBLE), "\u200b\u3164", " \u2060 ", "\u200d" * 100]:
        new = client.post("/users", json=GRACE | {"name": name})
        change = client.patch(ada.headers["location"], json={"name": name})

        for answer in (new, change):
            assert answer.status_code == 422, ascii(name)
            (fault,) = refused(answer)["detail"]
            assert fault["loc"] == ["body", "name"]
    assert client.get("/users").json() == [ada.json()]


def test_a_name_that_turns_the_direction_of_the_text_around_it_is_refused(
    client: httpx.Client,
) -> None:
    ada = add(client, ADA)

    for control in map(chr, TURNING):
        for name in (f"Ada {control}nimda", f"{control}Ada", f"Ada{control}"):
            new = client.post("/users", json=GRACE | {"name": name})
            change = client.patch(ada.headers["location"], json={"name": name})

            for answer in (new, change):
                assert answer.status_code == 422, ascii(name)
                (fault,) = refused(answer)["detail"]
                assert fault["msg"] == "A name has no control characters"
    assert client.get("/users").json() == [ada.json()]


@pytest.mark.parametrize(
    "name",
    [
        "\N{ADULT}\N{ZERO WIDTH JOINER}\N{ROCKET}",
        "\N{HEAVY BLACK HEART}\N{VARIATION SELECTOR-16}",
        "\u0646\u0627\u0645\u0647\u200c\u0627\u06cc",  # Persian, with a non-joiner
        "\u05e2\u05d3\u05d4",  # Hebrew, whose letters turn the direction by themselves
        "\u0926\u094d\u200d\u092f",  # Devanagari, with a joiner
    ],
    ids=ascii,
)
def test_a_name_that_can_be_seen_keeps_what_cannot_be_seen_in_it(
    client: httpx.Client, name: str
) -> None:
    user = add(client, ADA | {"name": name})

    assert user.json()["name"] == name
    assert client.get(user.headers["location"]).json() == user.json()


def test_a_name_stored_before_it_would_be_refused_can_still_be_read(
    client: httpx.Client, database: sqlalchemy.Engine
) -> None:
    names = ["\u200b", "\u3164", "Ada \u202enimda", "\u2066Ada", "A\nda", ""]
    insert = sqlalchemy.text("INSERT INTO users (name, email) VALUES (:name, :email)")
    with database.begin() as connection:
        for number, name in enumerate(names):
            values = {"name": name, "email": f"{number}@example.com"}
            connection.execute(insert, values)

    users = client.get("/users").json()

    assert [user["name"] for user in users] == names
    for user in users:
        address = f"/users/{user['id']}"
        assert client.get(address).json() == user
        assert client.get("/users", params={"email": user["email"]}).json() == [user]
        changed = user | {"email": f"new-{user['email']}"}
        assert client.patch(address, json={"email": changed["email"]}).json() == changed


anything = st.text(st.characters())  # lone surrogates included
some_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | anything,
    lambda part: st.lists(part, max_size=3) | st.dictionaries(anything, part, max_size=3),
    max_leaves=5,
)
some_user = st.fixed_dictionaries(
    {},
    optional={
        "name": anything | some_json,
        "email": st.emails() | anything | some_json,
        "extra": some_json,
    },
)


@pytest.mark.slow
@examples
@given(body=some_user | some_json)
@example(body={"name": "\u2028", "email": "ada@example.com"})
@example(body={"name": "\U0001f9d1\u200d\U0001f680", "email": "é@example.com"})
@example(body={"name": "\u13a0", "email": "ada@\u13a0da.example.com"})  # Cherokee
def test_a_body_is_stored_as_it_came_or_not_at_all(client: httpx.Client, body: Any) -> None:
    before = client.get("/users?limit=1000").json()

    answer = client.post("/users", content=json.dumps(body), headers=JSON)

    if answer.status_code == 201:
        stored = answer.json()
        assert stored["name"] == body["name"].strip()
        assert stored["email"].isprintable()
        assert stored["email"] == stored["email"].lower()
        assert client.get(answer.headers["location"]).json() == stored
        assert client.get("/users", params={"email": body["email"]}).json() == [stored]
        assert client.delete(answer.headers["location"]).status_code == 204
    else:
        refused(answer)
    assert client.get("/users?limit=1000").json() == before


@examples
@given(name=st.text(min_size=1, max_size=100))
@example(name="A\u200bda")
@example(name="\u200b")
@example(name="\u115f\u3164")
def test_every_name_that_can_be_seen_and_has_no_control_characters_is_kept(
    client: httpx.Client, name: str
) -> None:
    answer = client.post("/users", json=ADA | {"name": name})

    if answer.status_code == 201:
        client.delete(answer.headers["location"])
        assert answer.json()["name"] == name.strip()
    else:
        refused(answer)
        controls = any(unicodedata.category(c) == "Cc" or ord(c) in TURNING for c in name)
        # Of Unicode's categories: marks, blanks, formats and what is not assigned.
        seen = any(
            unicodedata.category(c)[0] not in "MZC" and ord(c) not in INVISIBLE for c in name
        )
        assert controls or not seen


@pytest.mark.slow
@examples
@given(names=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), max_size=5))
@example(names=['"', "\\", "\u2028", "\x1f\x7f\x80", "\U0001f9d1\u200d\U0001f680", "</script>"])
def test_the_json_that_the_database_writes_means_the_same_as_user_read(
    client: httpx.Client, database: sqlalchemy.Engine, names: list[str]
) -> None:
    with database.begin() as connection:
        connection.execute(sqlalchemy.text("DELETE FROM users"))
        for number, name in enumerate(names):
            connection.execute(
                sqlalchemy.text("INSERT INTO users (name, email) VALUES (:name, :email)"),
                {"name": name[:100], "email": f"{number}-{name.lower()[:100]}@example.com"},
            )
        rows = connection.execute(sqlalchemy.text("SELECT * FROM users ORDER BY id")).all()

    page = client.get("/users")

    users = [UserRead.model_validate(row, from_attributes=True) for row in rows]
    assert TypeAdapter(list[UserRead]).validate_json(page.content, strict=True) == users
    assert page.json() == [user.model_dump() for user in users]
    for user in users:
        assert client.get(f"/users/{user.id}").content == user.model_dump_json().encode()


@examples
@given(body=st.binary(max_size=200))
def test_bytes_that_are_no_json_are_refused(client: httpx.Client, body: bytes) -> None:
    refused(client.post("/users", content=body, headers=JSON))


@examples
@given(
    path=st.text(st.characters(exclude_characters="?#"), max_size=30).filter(
        lambda path: path not in ("", "/")
    )
)
def test_an_address_that_is_none_is_refused(client: httpx.Client, path: str) -> None:
    quoted = "".join(f"%{byte:02X}" for byte in path.encode(errors="surrogatepass"))

    answer = client.get(f"/users/{quoted}")

    if answer.status_code != 200:
        refused(answer)
    else:
        assert re.fullmatch(r"[1-9]\d*", path, re.ASCII)


def tags(value: bytes) -> list[bytes]:
    """Read If-Match byte by byte, by RFC 9110's grammar; `[]` if it has a part that is no tag."""
    parts, quoted = [b""], False
    for byte in value:
        quoted ^= byte == ord('"')
        if byte == ord(",") and not quoted:
            parts.append(b"")
        else:
            parts[-1] += bytes([byte])
    found = [part for part in (part.strip(b" \t") for part in parts) if part]
    for tag in found:
        opaque = tag.removeprefix(b"W/")
        if len(opaque) < 2 or opaque[:1] != b'"' or opaque.find(b'"', 1) != len(opaque) - 1:
            return []
        if any(byte <= 0x20 or byte == 0x7F for byte in opaque):
            return []
    return found


pieces = st.sampled_from([b'"1"', b'W/"1"', b'"2"', b'"', b"W/", b"1", b"*", b",", b" ", b"\t"])
a_header = (
    st.binary(max_size=50).map(lambda value: re.sub(rb"[\x00-\x1f\x7f]", b"?", value))
    | st.lists(pieces, max_size=8).map(b"".join)
).map(bytes.strip)


@pytest.mark.slow
@examples
@given(value=a_header)
@example(value=b'"' + DIGITS + b'"')
@example(value=b'"1' * 60 + b'"')
@example(value=b"," * 5000 + b'"1"')
@example(value=b'"1"' + b" ," * 5000 + b"x")
def test_a_tag_matches_by_the_grammar_of_http_or_not_at_all(
    client: httpx.Client, value: bytes
) -> None:
    ada = add(client, ADA)
    address = ada.headers["location"]
    strong = value == b"*" or b'"1"' in tags(value)
    weak = strong or b'W/"1"' in tags(value)

    read = client.get(address, headers={b"If-None-Match": value})
    change = client.patch(address, json={"name": "New"}, headers={b"If-Match": value})

    assert read.status_code == (304 if weak else 200)
    assert change.status_code == (200 if strong else 412)
    assert client.get(address).json() == (change.json() if strong else ada.json())
    assert client.delete(address).status_code == 204


KIB = 1024
# Together with what every client sends, these are below and above the 16 KiB of all headers.
FITTING, TOO_LONG = 15 * KIB, 17 * KIB


def many_tags(size: int) -> str:
    """Return as many tags as fit, in versions that no user here has."""
    tags = [f'"{number}"' for number in range(10_000, 100_000)]
    return ", ".join(tags[: size // len('"10000", ')])


def test_as_many_tags_as_fit_into_the_headers_are_read_to_the_last(client: httpx.Client) -> None:
    ada = add(client, ADA)
    address, others = ada.headers["location"], many_tags(FITTING)

    stale = client.patch(address, json={"name": "X"}, headers={"If-Match": others})
    new = client.get(address, headers={"If-None-Match": others})
    known = client.get(address, headers={"If-None-Match": f'{others}, "1"'})
    lines = [("If-Match", many_tags(FITTING // 2)), ("If-Match", f'{many_tags(FITTING // 3)}, "1"')]
    changed = client.patch(address, json={"name": "New"}, headers=lines)

    assert (stale.status_code, new.json()) == (412, ada.json())
    assert (known.status_code, known.content) == (304, b"")
    assert (changed.status_code, changed.json()["name"]) == (200, "New")
    assert client.delete(address, headers={"If-Match": others}).status_code == 412
    assert client.delete(address, headers={"If-Match": f'{others}, "2"'}).status_code == 204


HEADERS = {
    "one long": [("X-Long", "x" * TOO_LONG)],
    "many tags": [("If-Match", many_tags(TOO_LONG))],
    "many short": [(f"X-{number}", "x") for number in range(TOO_LONG // len("X-1000x"))],
    "a long name": [("X" * TOO_LONG, "x")],
    "much more": [("X-Long", "x" * 240 * KIB)],
}


@pytest.mark.parametrize("token", ["", TOKEN], ids=["open", "with a token"])
def test_headers_of_more_than_16_kib_in_all_are_refused_whatever_they_are(
    start: StartService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("API_TOKEN", token)
    with start(f"sqlite:///{tmp_path}/users.db").wait() as client:
        if token:
            client.headers["Authorization"] = f"Bearer {token}"
        ada = add(client, ADA)
        address = ada.headers["location"]
        for headers in HEADERS.values():
            for answer in (
                client.get("/users", headers=headers),
                client.get(address, headers=headers),
                client.get("/health", headers=headers),
                client.get("/nothing", headers=headers),
                client.post("/users", json=GRACE, headers=headers),
                client.patch(address, json={"name": "Changed"}, headers=headers),
                client.delete(address, headers=headers),
            ):
                assert answer.status_code == 431, (answer.request.method, answer.url)
                assert isinstance(refused(answer)["detail"], str)
            assert client.head("/users", headers=headers).status_code == 431

        fitting = {"X-Long": "x" * FITTING}
        assert client.get("/users", headers=fitting).json() == [ada.json()]
        assert client.patch(address, json={"name": "Ada"}, headers=fitting).status_code == 200
        client.headers.pop("Authorization", None)
        stranger = client.get("/users", headers=HEADERS["one long"])
        assert stranger.status_code in ([401, 431] if token else [431])


@pytest.mark.slow
def test_100_requests_with_long_headers_leave_no_memory_behind(
    start: StartService, new_database: str
) -> None:
    service = start(new_database)
    with service.wait() as client:
        address = add(client, ADA).headers["location"]
        headers = {"If-Match": many_tags(240 * KIB)}
        client.patch(address, json={"name": "First"}, headers={"If-Match": many_tags(FITTING)})
        before = memory(service)

        for _ in range(100):
            client.patch(address, json={"name": "Changed"}, headers=headers)

        assert memory(service) - before < 20 * MIB
        for _ in range(100):
            fitting = {"If-Match": many_tags(FITTING)}
            stale = client.patch(address, json={"name": "Changed"}, headers=fitting)
            assert stale.status_code == 412
        assert memory(service) - before < 20 * MIB


@pytest.mark.slow
@pytest.mark.parametrize("length", ["declared", "chunked"])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_body_of_100_mb_is_refused_before_it_is_read(
    start: StartService, tmp_path: Path, method: str, length: str
) -> None:
    framing = {
        "declared": f"Content-Length: {100 * MIB}",
        "chunked": "Transfer-Encoding: chunked",
    }[length]
    part = b" " * MIB if length == "declared" else b"100000\r\n" + b" " * MIB + b"\r\n"
    service = start(f"sqlite:///{tmp_path}/users.db")
    with service.wait() as client, connect(client) as connection:
        ada = add(client, ADA)
        address = "/users" if method == "POST" else ada.headers["location"]
        before = memory(service)

        def send() -> None:
            try:
                for _ in range(100):
                    connection.sendall(part)
            except OSError:
                pass  # it was told to stop

        connection.sendall(
            f"{method} {address} HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/json\r\n{framing}\r\n\r\n".encode()
        )
        connection.sendall(part)
        # The answer comes though most of the body is not sent yet.
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")
        sender = threading.Thread(target=send)
        sender.start()
        for _ in range(20):
            assert client.get("/users").json() == [ada.json()]
        connection.close()
        sender.join()

        assert memory(service) - before < 20 * MIB


def test_the_longest_valid_user_is_not_too_long(client: httpx.Client) -> None:
    longest = {"name": "\N{GRINNING FACE}" * 100, "email": f"{'a' * 60}@{'b' * 60}.example.com"}
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in longest["email"])
    body = json.dumps(longest).replace(longest["email"], escaped)

    answer = client.post("/users", content=body + " " * (64 * 1024 - len(body)), headers=JSON)

    assert answer.status_code == 201
    too_long = client.post("/users", content=body + " " * 64 * 1024, headers=JSON)
    assert too_long.status_code == 413


def test_a_deletion_with_a_body_that_is_too_long_deletes_nothing(client: httpx.Client) -> None:
    ada = add(client, ADA)

    answer = client.request("DELETE", ada.headers["location"], content=b" " * 70_000)

    assert answer.status_code == 413
    assert client.get("/users").json() == [ada.json()]


@pytest.mark.parametrize("sent", ["at once", "in two pieces", "chunked"])
def test_a_body_with_upgrade_is_refused_and_never_read_as_a_second_request(
    client: httpx.Client, sent: str
) -> None:
    ada = add(client, ADA)
    second = f"DELETE {ada.headers['location']} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    length = "Transfer-Encoding: chunked" if sent == "chunked" else f"Content-Length: {len(second)}"
    head = (
        "POST /users HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n{length}\r\n\r\n"
    ).encode()

    with connect(client) as connection:
        if sent == "at once":
            connection.sendall(head + second)
        else:
            connection.sendall(head)
            connection.sendall(second)
        answer = b""
        with suppress(ConnectionResetError):
            while received := connection.recv(4096):
                answer += received

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"connection: close" in answer
    assert b"Upgrade" in answer
    assert answer.count(b"HTTP/1.1") == 2  # the second one is in the sentence
    assert client.get("/users").json() == [ada.json()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "protocol",
    [
        # Not uvicorn's default, which neither shows such a handshake to the service nor answers it.
        "none",
        "websockets",
        "wsproto",
    ],
)
@pytest.mark.parametrize("length", ["Content-Length: 5", "Transfer-Encoding: chunked"])
def test_a_web_socket_handshake_with_a_body_is_refused(
    start: StartService, tmp_path: Path, length: str, protocol: str
) -> None:
    body = "hello" if "Length" in length else "5\r\nhello\r\n0\r\n\r\n"
    service = start(f"sqlite:///{tmp_path}/users.db", "--ws", protocol)
    with service.wait() as client, connect(client) as connection:
        connection.settimeout(2)
        connection.sendall(
            "GET /users HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{length}\r\n\r\n{body}".encode()
        )

        assert connection.recv(4096).startswith(b"HTTP/1.1 4")


@pytest.mark.parametrize("address", ["/users%0A", "/users/1%0A", "/health%0A", "/docs%0A"])
def test_an_address_with_a_line_break_after_it_is_none(client: httpx.Client, address: str) -> None:
    add(client, ADA)

    assert client.get(address).status_code == 404
    assert client.post(address, json=GRACE).status_code in (404, 405)
    assert len(client.get("/users").json()) == 1


@pytest.mark.slow
def test_clients_that_never_read_their_answers_keep_nobody_out(
    start: StartService, new_database: str, new_engine: sqlalchemy.Engine
) -> None:
    service = start(new_database)
    with service.wait() as client:
        add_many(new_engine, 100, name="x" * 100)

        with slow_readers(service, "/users", 150):
            before = memory(service)
            for number in range(20):
                assert client.get("/users/1", timeout=5).status_code == 200
                user = {"name": "Ada", "email": f"ada{number}@example.com"}
                assert client.post("/users", json=user, timeout=5).status_code == 201
            assert client.get("/health", timeout=5).status_code == 200
            assert memory(service) - before < 50 * MIB


@pytest.mark.slow
def test_schemathesis_finds_nothing_that_the_openapi_document_does_not_promise(
    client: httpx.Client, tmp_path: Path
) -> None:
    document = client.get("/openapi.json").json()

    done = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            *("--config-file", ROOT / "tests/schemathesis.toml"),
            *("run", str(client.base_url.join("/openapi.json")), "--checks", "all"),
            *("--generation-deterministic", "--no-color"),
        ],
        cwd=tmp_path,  # in which it leaves a cache
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout
    operations = sum(len(methods) for methods in document["paths"].values())
    assert re.search(rf"Tested: {operations}\b", done.stdout), done.stdout


@pytest.mark.slow
def test_clients_with_half_a_body_disturb_nobody_and_the_service_can_be_stopped(
    start: StartService, new_database: str
) -> None:
    service = start(new_database, "--timeout-graceful-shutdown", "10")
    with service.wait() as client, ExitStack() as stack:
        before = memory(service)
        halves = [stack.enter_context(half_a_post(client)) for _ in range(100)]
        for number in range(20):
            user = {"name": "Ada", "email": f"ada{number}@example.com"}
            assert client.post("/users", json=user, timeout=5).status_code == 201
            assert client.get("/users", timeout=5).status_code == 200
        assert client.get("/health", timeout=5).status_code == 200
        assert memory(service) - before < 20 * MIB

        began = time.monotonic()
        service.stop()

        assert time.monotonic() - began < 15
        assert len(halves) == 100


@pytest.mark.slow
def test_a_slow_body_is_not_taken_for_a_busy_database(client: httpx.Client) -> None:
    with half_a_post(client) as slow:
        time.sleep(LOCK_TIMEOUT + 0.4)  # longer than a request waits for its turn
        slow.sendall(BODY[BODY_SENT:])

        assert slow.recv(4096).startswith(b"HTTP/1.1 201 ")
