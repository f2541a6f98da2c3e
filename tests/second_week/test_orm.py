"""What SQLAlchemy's own pages on the ORM teach reaches the endpoints of the users.

What is added stands in `orm.py` and `tenants.py`, beside this file.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from helpers import ADA, GRACE, add, alembic, at_once, logged, make_tables, sql
from postgres import Postgres
from service import Service, StartService

pytestmark = pytest.mark.slow

TABLES = [
    """CREATE TABLE addresses (
        id {id}, street VARCHAR(100) NOT NULL, version BIGINT DEFAULT 1 NOT NULL,
        user_id BIGINT NOT NULL REFERENCES users (id))""",
    *(
        f"""CREATE TABLE {name} (
        id {{id}}, version BIGINT DEFAULT 1 NOT NULL,
        user_id BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE)"""
        for name in ("badges", "albums")
    ),
    "CREATE TABLE trail (id {id}, what VARCHAR(100), name VARCHAR(100))",
    """CREATE TABLE changes (
        id {id}, what VARCHAR(100) NOT NULL, name VARCHAR(100) NOT NULL,
        version BIGINT DEFAULT 1 NOT NULL)""",
    "ALTER TABLE users ADD COLUMN hidden BOOLEAN DEFAULT false NOT NULL",
    "ALTER TABLE users ADD COLUMN tenant VARCHAR(50) DEFAULT '' NOT NULL",
]
# A tenant for each request: users of one are nowhere to be seen for the other.
RED, BLUE = {"X-Tenant": "red"}, {"X-Tenant": "blue"}


@pytest.fixture(scope="module")
def service(_start: StartService, url: str) -> Iterator[Service]:
    alembic(url, "upgrade", "head")
    make_tables(url, *TABLES)
    service = _start(url, "--app-dir", "tests", app="second_week.orm:app")
    service.wait().close()
    yield service
    service.kill()


@pytest.fixture
def mistaken(service: Service, url: str) -> Service:
    """That service without users, for a test that makes it print tracebacks."""
    tables = ("addresses", "badges", "albums", "users", "trail", "changes")
    sql(url, *(f"DELETE FROM {table}" for table in tables))
    return service


def give(url: str, table: str, user: httpx.Response, **values: str) -> None:
    """Let a user have a row in this table."""
    names = "".join(f", {name}" for name in values)
    given = "".join(f", '{value}'" for value in values.values())
    sql(url, f"INSERT INTO {table} (user_id{names}) VALUES ({user.json()['id']}{given})")


def owners(url: str, table: str) -> list[int]:
    return [owner for (owner,) in sql(url, f"SELECT user_id FROM {table} ORDER BY id")]


def test_a_user_is_deleted_with_what_its_cascade_names(client: httpx.Client, url: str) -> None:
    ada, grace = add(client, ADA), add(client, GRACE)
    address = ada.headers["location"]
    for user in (ada, ada, grace):
        give(url, "addresses", user, street="Main Street")
    stale = {"If-Match": '"999"'}

    assert client.delete(address, headers=stale).status_code == 412
    assert len(owners(url, "addresses")) == 3
    assert client.delete(address).status_code == 204
    assert client.get(address).status_code == 404
    assert owners(url, "addresses") == [grace.json()["id"]]
    assert client.get("/users").json() == [grace.json()]


def test_of_many_deletions_with_a_cascade_at_once_one_is_204_and_the_others_404(
    client: httpx.Client, url: str
) -> None:
    for _ in range(5):
        ada = add(client, ADA)
        give(url, "addresses", ada, street="Main Street")

        answers = at_once([partial(client.delete, ada.headers["location"])] * 8)

        assert sorted(answer.status_code for answer in answers) == [204] + [404] * 7
    assert owners(url, "addresses") == []


def test_a_user_is_deleted_with_what_the_database_deletes_for_passive_deletes(
    client: httpx.Client, url: str
) -> None:
    ada, grace = add(client, ADA), add(client, GRACE)
    give(url, "badges", ada)
    give(url, "badges", grace)

    assert client.delete(ada.headers["location"]).status_code == 204

    assert owners(url, "badges") == [grace.json()["id"]]


def test_a_relationship_that_would_write_null_is_a_mistake_of_the_model(
    mistaken: Service, url: str
) -> None:
    with mistaken.client() as client:
        ada = add(client, ADA)
        give(url, "albums", ada)
        seen = len(mistaken.log.read_text())

        answer = client.delete(ada.headers["location"])

        assert answer.status_code == 500
        assert answer.json() == {"detail": "Internal Server Error"}
        log = logged(mistaken.log, "Exception in ASGI application", seen)
        assert re.search("NOT NULL constraint|NotNullViolation", log)
        assert client.get("/users").json() == [ada.json()]
        assert owners(url, "albums") == [ada.json()["id"]]


def test_events_of_the_mapper_and_the_session_see_each_write_that_is_stored_and_no_other(
    client: httpx.Client, url: str
) -> None:
    ada = add(client, ADA)
    address = ada.headers["location"]
    assert client.post("/users", json=ADA).status_code == 409
    assert client.post("/users", json={"name": "Nobody"}).status_code == 422
    assert client.patch(address, json={"name": "Ada King"}).status_code == 200
    stale = {"If-Match": ada.headers["etag"]}
    assert client.patch(address, json={"name": "X"}, headers=stale).status_code == 412
    assert client.delete(address, headers=stale).status_code == 412
    assert client.delete(address).status_code == 204
    assert client.delete(address).status_code == 404

    names = ["Ada Lovelace", "Ada King", "Ada King"]
    trail = sql(url, "SELECT what, name FROM trail ORDER BY id")
    assert trail == list(zip(["insert", "update", "delete"], names, strict=True))
    changes = sql(url, "SELECT what, name FROM changes ORDER BY id")
    assert changes == list(zip(["new", "dirty", "deleted"], names, strict=True))


def test_an_event_of_an_attribute_sees_what_is_set(client: httpx.Client) -> None:
    ada = add(client, ADA | {"name": "Ada   Lovelace"})
    address = ada.headers["location"]
    assert ada.json()["name"] == "Ada Lovelace"

    changed = client.patch(address, json={"name": "Ada   King"})

    assert changed.json()["name"] == client.get(address).json()["name"] == "Ada King"


def test_who_is_hidden_by_criteria_is_nowhere_to_be_seen_changed_or_deleted(
    client: httpx.Client, url: str
) -> None:
    users = [add(client, {"name": f"User {n}", "email": f"user{n}@example.com"}) for n in range(4)]
    shown = [users[0].json(), users[2].json(), users[3].json()]
    hidden = users[1].json()
    address = users[1].headers["location"]
    sql(url, f"UPDATE users SET hidden = true WHERE id = {hidden['id']}")

    assert client.get("/users").json() == shown
    page = client.get("/users?limit=1")
    second = client.get(page.url.join(page.links["next"]["url"]))
    third = client.get(second.url.join(second.links["next"]["url"]))
    assert page.json() + second.json() + third.json() == shown
    assert "link" not in third.headers
    assert client.get("/users", params={"email": hidden["email"]}).json() == []
    assert client.get(address).status_code == 404
    assert client.get(address, headers={"If-None-Match": '"1"'}).status_code == 404
    assert client.patch(address, json={"name": "X"}).status_code == 404
    assert client.patch(address, json={"name": "X"}, headers={"If-Match": "*"}).status_code == 404
    assert client.delete(address).status_code == 404
    assert client.post("/users", json=ADA | {"email": hidden["email"]}).status_code == 409
    assert client.get("/health").status_code == 200
    kept = sql(url, f"SELECT name, version FROM users WHERE id = {hidden['id']}")
    assert kept == [(hidden["name"], 1)]


def assert_apart(client: httpx.Client) -> None:
    """Assert that each of two tenants has users of its own."""
    ada = client.post("/users", json=ADA, headers=RED)
    assert ada.status_code == 201, ada.text
    address = ada.headers["location"]
    grace = client.post("/users", json=GRACE, headers=BLUE)
    assert grace.status_code == 201, grace.text

    for _ in range(3):  # on whichever connection
        for headers, own in ((RED, ada), (BLUE, grace)):
            assert client.get("/users", headers=headers).json() == [own.json()]
            one = client.get(own.headers["location"], headers=headers)
            assert (one.status_code, one.json()) == (200, own.json())
    assert client.get("/users", params={"email": ADA["email"]}, headers=BLUE).json() == []
    changed = client.patch(address, json={"name": "Ada King"}, headers=RED)
    assert changed.json() == ada.json() | {"name": "Ada King"}
    assert client.get(address, headers=RED).headers["etag"] == changed.headers["etag"]
    assert client.delete(address, headers=RED).status_code == 204
    assert client.get("/users", headers=RED).json() == []
    assert client.get("/users", headers=BLUE).json() == [grace.json()]


def assert_closed(client: httpx.Client) -> None:
    """Assert that a tenant reaches the users of the other by no address."""
    ada = client.post("/users", json=ADA, headers=RED)
    address = ada.headers["location"]

    assert client.get(address, headers=BLUE).status_code == 404
    assert client.patch(address, json={"name": "X"}, headers=BLUE).status_code == 404
    assert client.delete(address, headers=BLUE).status_code == 404
    assert client.get(address, headers=RED).json() == ada.json()


def test_tenants_by_criteria_have_users_of_their_own(client: httpx.Client) -> None:
    assert_apart(client)
    assert_closed(client)


@pytest.fixture
def start_with(
    start: StartService, postgres: Postgres, project: Path
) -> Callable[[str, str], Service]:
    """Start a copy of the service with a dependency of tenants.py, as this role."""

    def start_with(dependency: str, role: str = "postgres") -> Service:
        main = project / "main.py"
        lines = rf"""from fastapi import Depends
from second_week.tenants import {dependency}

\g<0>
    dependencies=[Depends({dependency})],"""
        changed, times = re.subn(r"^app = \w+\($", lines, main.read_text(), flags=re.M)
        assert times == 1
        main.write_text(changed)
        url = postgres.url().replace("postgres@", f"{role}@")
        return start(url, "--app-dir", "tests", cwd=project)

    return start_with


def test_tenants_by_row_level_security_have_users_of_their_own(
    start_with: Callable[[str, str], Service], postgres: Postgres
) -> None:
    alembic(postgres.url(), "upgrade", "head")
    sql(
        postgres.url(),
        "CREATE ROLE clerk LOGIN",
        "GRANT SELECT ON alembic_version TO clerk",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON users TO clerk",
        "ALTER TABLE users ADD tenant TEXT NOT NULL DEFAULT current_setting('app.tenant', true)",
        "ALTER TABLE users ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY tenants ON users USING (tenant = current_setting('app.tenant', true))",
    )
    with start_with("set_local", "clerk").wait() as client:
        assert_apart(client)
        assert_closed(client)
        assert client.get("/users").json() == []
        assert client.get("/health").status_code == 200


def test_tenants_by_schema_translate_map_have_users_of_their_own(
    start_with: Callable[[str], Service], postgres: Postgres
) -> None:
    alembic(postgres.url(), "upgrade", "head")
    for schema in ("red", "blue"):
        table = f"{schema}.users (LIKE public.users INCLUDING ALL)"
        sql(postgres.url(), f"CREATE SCHEMA {schema}", f"CREATE TABLE {table}")
    with start_with("translate").wait() as client:
        assert_apart(client)
        assert client.get("/users").json() == []
        assert client.get("/health").status_code == 200
