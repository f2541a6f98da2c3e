"""The database's no is an answer: 409 to a conflict, 4xx to a value, 500 to a mistake.

What is added stands in `photos.py`, beside this file.
"""

import re
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest

from helpers import ADA, GRACE, add, at_once, logged, make_tables, refused, sql
from postgres import Postgres
from service import Service, StartService

pytestmark = pytest.mark.slow

# How a table may refer to users, but for ON DELETE CASCADE.
RULES = ["", "ON DELETE RESTRICT", "DEFERRABLE INITIALLY DEFERRED"]
TABLES = [
    """CREATE TABLE photos (
        id {id}, user_id BIGINT NOT NULL REFERENCES users (id),
        code VARCHAR(100) NOT NULL UNIQUE, title VARCHAR(100) NOT NULL,
        stars INTEGER NOT NULL CONSTRAINT ck_photos_stars CHECK (stars < 6),
        version BIGINT DEFAULT 1 NOT NULL)""",
    "CREATE UNIQUE INDEX one_title ON photos (lower(title))",
]
# What the table of photos does not take, and what the log says then.
CONFLICTS: dict[str, dict[str, Any]] = {
    "a unique column": {"code": "one"},
    "a unique index": {"title": "SUNRISE"},
    "a foreign key": {"user_id": 999_999},
}
MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "NOT NULL": ({"title": None}, "NOT NULL constraint|NotNullViolation"),
    "CHECK": ({"stars": 6}, "CHECK constraint|CheckViolation"),
}
# Beyond 32 bits, and beyond 64.
LARGE = [2**31, -(2**31) - 1, 10**20, -(10**20)]


@pytest.fixture(scope="module")
def service(_start: StartService, url: str) -> Iterator[Service]:
    service = _start(url, "--app-dir", "tests", app="second_week.photos:app")
    service.wait().close()
    make_tables(url, *TABLES)
    yield service
    service.kill()


@pytest.fixture
def mistaken(service: Service, url: str) -> Service:
    """That service without users, for a test that makes it print tracebacks."""
    sql(url, "DELETE FROM photos", "DELETE FROM users")
    return service


@pytest.fixture
def photo(client: httpx.Client) -> dict[str, Any]:
    """What makes a photo of Ada, of whom there is another one."""
    first = {"user_id": add(client, ADA).json()["id"], "code": "one", "title": "Sunrise"}
    answer = client.post("/photos", json=first)
    assert (answer.status_code, answer.json()) == (201, answer.json() | first)
    return first | {"code": "two", "title": "Sunset", "stars": 5}


def assert_conflict(answer: httpx.Response) -> str:
    """Assert a 409 with a sentence, and return that."""
    assert answer.status_code == 409, answer.text
    sentence = refused(answer)["detail"]
    assert isinstance(sentence, str)
    assert len(sentence.split()) > 2
    return sentence


def assert_well(client: httpx.Client, url: str) -> None:
    """Assert that reads and writes are served at once, those of other programs too."""
    began = time.monotonic()
    for _ in range(3):
        grace = add(client, GRACE)
        assert grace.json() in client.get("/users").json()
        assert client.delete(grace.headers["location"]).status_code == 204
        sql(url, "INSERT INTO users (name, email) VALUES ('Other', 'other@example.com')")
        sql(url, "DELETE FROM users WHERE email = 'other@example.com'")
    assert client.get("/health").status_code == 200
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("rule", RULES)
def test_a_user_to_whom_a_row_refers_is_not_deleted_and_the_answer_is_409(
    start: StartService, new_database: str, rule: str
) -> None:
    with start(new_database).wait() as client:
        ada = add(client, ADA)
        address = ada.headers["location"]
        reference = f"user_id BIGINT NOT NULL REFERENCES users (id) {rule}"
        make_tables(new_database, f"CREATE TABLE photos (id {{id}}, {reference})")
        sql(new_database, f"INSERT INTO photos (user_id) VALUES ({ada.json()['id']})")

        for answer in at_once([partial(client.delete, address)] * 20):  # more than connections
            assert_conflict(answer)

        kept = client.get(address)
        assert (kept.json(), kept.headers["etag"]) == (ada.json(), ada.headers["etag"])
        assert len(sql(new_database, "SELECT id FROM photos")) == 1
        assert_well(client, new_database)
        sql(new_database, "DELETE FROM photos")
        assert client.delete(address).status_code == 204
        assert client.get("/users").json() == []


@pytest.mark.parametrize("address", ["/photos", "/photos/text"])
@pytest.mark.parametrize("conflict", CONFLICTS)
def test_a_conflict_in_an_added_resource_is_409_with_a_sentence(
    client: httpx.Client, url: str, photo: dict[str, Any], address: str, conflict: str
) -> None:
    before = client.get("/photos").json()

    for answer in at_once([partial(client.post, address, json=photo | CONFLICTS[conflict])] * 20):
        assert_conflict(answer)

    assert client.get("/photos").json() == before
    assert_well(client, url)
    assert client.post(address, json=photo).status_code == 201


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_an_added_resource_stays_500_with_its_traceback(
    mistaken: Service, url: str, mistake: str
) -> None:
    change, telling = MISTAKES[mistake]
    with mistaken.client() as client:
        photo = {"user_id": add(client, ADA).json()["id"], "code": "one", "title": "Sunrise"}
        seen = len(mistaken.log.read_text())

        answer = client.post("/photos", json=photo | change)

        assert answer.status_code == 500
        assert answer.json() == {"detail": "Internal Server Error"}
        assert re.search(telling, logged(mistaken.log, "Exception in ASGI application", seen))
        assert client.get("/photos").json() == []
        assert_well(client, url)


@pytest.mark.parametrize("number", LARGE)
def test_a_number_that_the_column_cannot_have_is_4xx(
    client: httpx.Client, url: str, photo: dict[str, Any], number: int
) -> None:
    refused(client.get(f"/photos/{number}"))
    refused(client.post("/photos", json=photo | {"user_id": number}))
    if abs(number) > 2**63:
        refused(client.post("/photos/text", json=photo | {"user_id": number}))
    answer = client.get("/photos", params={"stars": number})
    if answer.status_code != 200:
        refused(answer)

    assert len(client.get("/photos").json()) == 1
    assert_well(client, url)


def test_a_value_that_the_database_refuses_is_422_with_a_sentence_and_a_line_in_the_log(
    client: httpx.Client, service: Service, url: str
) -> None:
    seen = len(service.log.read_text())

    answer = client.get(f"/photos/{10**20}")

    assert answer.status_code == 422
    (fault,) = refused(answer)["detail"]
    assert len(fault["msg"].split()) > 2
    logged(
        service.log,
        "NumericValueOutOfRange" if url.startswith("postgresql") else "OverflowError",
        seen,
    )


def test_a_text_with_nul_is_no_failure(
    client: httpx.Client, url: str, photo: dict[str, Any]
) -> None:
    answers = [
        client.post("/photos", json=photo | {"title": "Sun\0set"}),
        client.get("/photos/titles/Sun%00rise"),
    ]

    for answer in answers:
        assert answer.status_code in (201, 404, 422), answer.text
    assert_well(client, url)


def test_an_e_mail_that_is_taken_keeps_its_words_though_postgresql_named_the_constraint(
    start: StartService, postgres: Postgres
) -> None:
    with start(postgres.url()).wait() as client:
        ada, grace = add(client, ADA), add(client, GRACE)
        sql(
            postgres.url(),
            "ALTER TABLE users RENAME CONSTRAINT uq_users_email TO users_email_key",
        )

        answers = [
            client.post("/users", json=ADA | {"email": "ADA@example.com"}),
            client.patch(grace.headers["location"], json={"email": ADA["email"]}),
        ]

        for answer in answers:
            assert assert_conflict(answer) == "This e-mail is taken"
            assert answer.headers["location"] == ada.headers["location"]
        assert client.get("/users").json() == [ada.json(), grace.json()]
