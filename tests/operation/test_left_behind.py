"""After an outage nothing stays behind: soon after its end, writes and reads are well, and stay so.

What the outage was does not matter, nor which connections were opened or used in it.
"""

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import pytest

from helpers import (
    ADA,
    add,
    alembic,
    append,
    assert_unavailable,
    at_once,
    break_connections,
    sql,
    until_served,
    wait_until,
)
from postgres import Postgres
from relay import relay
from service import Service, StartService

pytestmark = pytest.mark.slow

SOON = 5  # seconds, as README.md says
CLIENTS = 6
numbers = itertools.count()

NOTE = '''

from sqlalchemy import ForeignKey


class Note(Base):
    """A note. Whether its user is there is looked at when the transaction ends."""

    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(
        ForeignKey("users.id", deferrable=True, initially="DEFERRED")
    )
'''
ADD_NOTE = """

from models import Note


@app.post("/notes/{user_id}", status_code=201)
def add_note(user_id: int, db: Session = Depends(get_db)):
    db.add(Note(user_id=user_id))
    db.commit()
"""


def create(client: httpx.Client) -> httpx.Response:
    """Add a user that nobody else adds; 503 is an answer, too."""
    email = f"user{next(numbers)}@example.com"
    answer = client.post("/users", json={"name": "User", "email": email})
    if answer.status_code != 201:
        assert_unavailable(answer)
    return answer


def is_well(client: httpx.Client) -> bool:
    """Tell whether a user can be added, found, and is in the list."""
    created = create(client)
    if created.status_code != 201:
        return False
    user = created.json()
    found = client.get(created.headers["location"])
    listed = client.get("/users", params={"email": user["email"]})
    return (found.json(), listed.json()) == (user, [user])


def assert_well_soon(service: Service) -> None:
    """See that all is well within a few seconds, and stays so, for several clients at once."""
    clients = [service.client() for _ in range(CLIENTS)]

    def all_are_well() -> bool:
        return all(at_once([partial(is_well, client) for client in clients]))

    wait_until(all_are_well, lambda: service.log.read_text()[-3000:], SOON)
    for _ in range(5):
        assert all_are_well(), service.log.read_text()[-3000:]
    for client in clients:
        client.close()


def until_refused(client: httpx.Client) -> None:
    """Ask with several clients at once until one of them is told 503."""

    def refused() -> bool:
        answers = at_once([partial(create, client)] * 12)
        return 503 in {answer.status_code for answer in answers}

    wait_until(refused, lambda: "no 503")


@pytest.fixture
def service(start: StartService, postgres: Postgres) -> Service:
    """A service over a database of its own, in which there is a user."""
    sql(postgres.url(), "CREATE DATABASE users")
    service = start(postgres.url("users"))
    with service.wait() as client:
        add(client, ADA)
    return service


@pytest.mark.parametrize("connections", ["cut", "kept"])
@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (
            "ALTER DATABASE users SET default_transaction_read_only = on",
            "ALTER DATABASE users RESET default_transaction_read_only",
        ),
        (
            "ALTER ROLE postgres SET search_path = nowhere",
            "ALTER ROLE postgres RESET search_path",
        ),
    ],
    ids=["read-only", "another search_path"],
)
def test_what_was_set_for_a_moment_does_not_stay_in_the_connections_of_that_moment(
    service: Service, postgres: Postgres, begin: str, end: str, connections: str
) -> None:
    with service.client() as client:
        sql(postgres.url(), begin)
        if connections == "cut":
            break_connections(postgres.url())
        until_refused(client)

        sql(postgres.url(), end)

        assert_well_soon(service)
        assert client.get("/users/1").json() == {"id": 1, **ADA}


def test_another_search_path_for_a_moment_makes_no_tables_there(
    service: Service, postgres: Postgres
) -> None:
    sql(postgres.url("users"), "CREATE SCHEMA elsewhere")
    with service.client() as client:
        sql(postgres.url(), "ALTER ROLE postgres SET search_path = elsewhere")
        break_connections(postgres.url())
        until_refused(client)
        for path in ("/users", "/users/1", "/health"):
            assert_unavailable(client.get(path))

        sql(postgres.url(), "ALTER ROLE postgres RESET search_path")

        assert_well_soon(service)
        assert client.get("/users/1").json() == {"id": 1, **ADA}
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'elsewhere'"
    assert sql(postgres.url("users"), tables) == []


def test_after_a_switchover_behind_one_address_writes_and_reads_go_to_the_new_primary(
    start: StartService, make_postgres: Callable[[], Postgres]
) -> None:
    old, new = make_postgres(), make_postgres()
    old.create()
    new.copy(old.url())
    with relay(old.port) as address:
        service = start(f"postgresql://postgres@127.0.0.1:{address.port}/postgres")
        with service.wait() as client:
            add(client, ADA)

            old.stop()
            assert_unavailable(create(client))
            new.promote()
            old.come_back_as_a_standby()
            # While the address leads to it, it answers reads, and refuses writes.
            until_served(lambda: client.get("/users/1"))
            until_refused(client)
            address.leads_to = new.port

            assert_well_soon(service)
            assert client.get("/users/1").json() == {"id": 1, **ADA}


def test_a_commit_that_the_database_refuses_leaves_nothing_in_its_connection(
    start: StartService, new_database: str, project: Path
) -> None:
    append(project / "models.py", NOTE)
    append(project / "main.py", ADD_NOTE)
    alembic(new_database, "upgrade", "head", cwd=project)
    alembic(new_database, "revision", "--autogenerate", "-m", "Notes", cwd=project)
    alembic(new_database, "upgrade", "head", cwd=project)
    service = start(new_database, cwd=project)
    with service.wait() as client:
        add(client, ADA)

        refused = [client.post("/notes/99") for _ in range(5)]
        noted = [client.post("/notes/1") for _ in range(20)]

        assert [answer.status_code for answer in refused] == [409] * 5
        assert [answer.status_code for answer in noted] == [201] * 20
        assert_well_soon(service)
    assert sql(new_database, "SELECT user_id FROM notes") == [(1,)] * 20
