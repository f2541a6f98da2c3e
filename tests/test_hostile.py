"""Whatever is sent: a clear 4xx in JSON, nothing stored, nothing repeated, nobody else kept out."""

import json
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from conftest import ROOT, Service, StartService
from schemas import UserRead
from test_users import ADA, GRACE, add

JSON = {"Content-Type": "application/json"}
DIGITS = b"9" * 5000
MIB = 1024 * 1024
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
]
NUMBERS = [
    *[
        "+1",
        "1.0",
        "%201",
        "1%20",
        "01",
        "1_0",
        "1e0",
        "0x1",
        "-1",
        "x",
        "%00",
        "1%00",
        "%ff",
        "1;1",
        "%D9%A1",
        "%EF%BC%91",
    ],
    *("NaN", "Infinity", "null", "true", "1%0A", str(2**63), str(2**64), "9" * 5000),
]

# The client is the same for all the examples of a test.
examples = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def refused(answer: httpx.Response) -> Any:
    """Assert a 4xx with a JSON body that every client can read, and return it."""
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/json"

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    body = json.loads(answer.content.decode(), parse_constant=no_constant)
    assert set(body) == {"detail"}
    return body


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
def test_another_content_type_is_refused(client: httpx.Client, content_type: str) -> None:
    body = json.dumps(ADA).encode()
    refused(client.post("/users", content=body, headers={"Content-Type": content_type}))
    request = client.build_request("POST", "/users", content=body)
    assert "content-type" not in request.headers
    refused(client.send(request))
    assert client.get("/users").json() == []


@pytest.mark.parametrize("number", NUMBERS, ids=[number[:20] for number in NUMBERS])
def test_a_number_has_one_spelling_and_64_bits(client: httpx.Client, number: str) -> None:
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


@examples
@given(body=some_user | some_json)
@example(body={"name": "\u2028", "email": "ada@example.com"})
@example(body={"name": "\U0001f9d1\u200d\U0001f680", "email": "é@example.com"})
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
def test_every_name_without_control_characters_is_kept(client: httpx.Client, name: str) -> None:
    answer = client.post("/users", json=ADA | {"name": name})
    if answer.status_code == 201:
        client.delete(answer.headers["location"])
        assert answer.json()["name"] == name.strip()
    else:
        refused(answer)
        assert not name.strip() or re.search(r"[\x00-\x1f\x7f-\x9f]", name)


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
    users = [UserRead.model_validate(row) for row in rows]
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


a_header = st.binary(max_size=50).map(
    lambda value: re.sub(rb"[\x00-\x1f\x7f]", b"?", value).strip()
)


@examples
@given(value=a_header)
@example(value=b'"' + DIGITS + b'"')
@example(value=b'"1' * 60 + b'"')
@example(value=b'"9223372036854775808", "1"'[:22])
def test_a_tag_that_is_none_matches_nothing(client: httpx.Client, value: bytes) -> None:
    ada = add(client, ADA)
    address = ada.headers["location"]
    is_tag = value == b"*" or b'"1"' in value
    header = {b"If-None-Match": value, b"If-Match": value}
    assert client.get(address, headers=header).status_code == (304 if is_tag else 200)
    if not is_tag:
        refused(client.patch(address, json={"name": "Lost"}, headers=header))
        refused(client.delete(address, headers=header))
    assert client.get(address).json() == ada.json()
    assert client.delete(address).status_code == 204


def memory(service: Service) -> int:
    """Return the most memory that the process ever held, in bytes."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


@pytest.mark.parametrize("length", ["declared", "chunked"])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_body_of_100_mb_is_refused_before_it_is_read(
    start: StartService, new_database: str, method: str, length: str
) -> None:
    service = start(new_database)
    with service.wait() as client:
        ada = add(client, ADA)
        before = memory(service)
        address = "/users" if method == "POST" else ada.headers["location"]
        framing = {
            "declared": f"Content-Length: {100 * MIB}",
            "chunked": "Transfer-Encoding: chunked",
        }[length]
        head = (
            f"{method} {address} HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/json\r\n{framing}\r\n\r\n"
        )
        part = b" " * MIB if length == "declared" else b"100000\r\n" + b" " * MIB + b"\r\n"
        host, port = client.base_url.host, client.base_url.port
        with socket.create_connection((host, port or 0), timeout=10) as connection:

            def send() -> None:
                try:
                    for _ in range(100):
                        connection.sendall(part)
                except OSError:
                    pass  # it was told to stop

            connection.sendall(head.encode() + part)
            answer = b""
            while not answer.endswith(b"}"):  # though most of the body is not sent yet
                answer += connection.recv(4096)
            assert answer.startswith(b"HTTP/1.1 413 ")
            assert answer.endswith(b'{"detail":"The body is too long"}')
            sender = threading.Thread(target=send)
            sender.start()
            for _ in range(20):
                assert client.get("/users").json() == [ada.json()]
            connection.close()
            sender.join()
        assert memory(service) - before < 20 * MIB


def test_clients_that_never_read_their_answers_keep_nobody_out(
    start: StartService, new_database: str
) -> None:
    service = start(new_database)
    with service.wait() as client:
        for number in range(100):
            add(client, {"name": "x" * 100, "email": f"user{number}@example.com"})
        deaf = []
        host, port = client.base_url.host, client.base_url.port
        for _ in range(150):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((host, port))
            connection.sendall(b"GET /users HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
            deaf.append(connection)
        before = memory(service)
        for number in range(20):
            assert client.get("/users/1", timeout=5).status_code == 200
            user = {"name": "Ada", "email": f"ada{number}@example.com"}
            assert client.post("/users", json=user, timeout=5).status_code == 201
        assert client.get("/health", timeout=5).status_code == 200
        assert memory(service) - before < 50 * MIB
        service.process.kill()  # see lesson 5
        for connection in deaf:
            connection.close()


def test_schemathesis_finds_nothing_that_the_openapi_document_does_not_promise(
    client: httpx.Client,
) -> None:
    done = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            *("--config-file", "tests/schemathesis.toml"),
            *("run", str(client.base_url.join("/openapi.json")), "--checks", "all"),
            *("--generation-deterministic", "--no-color"),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"Tested: 6\b", done.stdout), done.stdout


def test_a_body_that_stops_coming_is_408_and_keeps_nobody_waiting(
    start: StartService, new_database: str
) -> None:
    with start(new_database).wait() as client:
        host, port = client.base_url.host, client.base_url.port or 0
        halves = [socket.create_connection((host, port), timeout=15) for _ in range(100)]
        for half in halves:
            half.sendall(
                b"POST /users HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b'Content-Length: 60\r\n\r\n{"name": "A'
            )
        for number in range(20):
            add(client, {"name": "Ada", "email": f"ada{number}@example.com"})
        for half in halves:
            assert half.recv(4096).startswith(b"HTTP/1.1 408 ")
            half.close()
        assert len(client.get("/users").json()) == 20


def test_a_slow_body_is_not_taken_for_a_busy_database(client: httpx.Client) -> None:
    host, port = client.base_url.host, client.base_url.port or 0
    body = json.dumps(ADA).encode()
    with socket.create_connection((host, port), timeout=15) as slow:
        slow.sendall(
            b"POST /users HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body[:10])
        )
        time.sleep(4.4)
        slow.sendall(body[10:])
        assert slow.recv(4096).startswith(b"HTTP/1.1 201 ")
