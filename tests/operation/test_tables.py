"""Whose tables the database has, and what the service does about it: it alters none by itself."""

import shutil
from pathlib import Path

import httpx
import pytest

from helpers import (
    ADA,
    GRACE,
    add,
    alembic,
    assert_unavailable,
    columns,
    logged,
    replace,
    sql,
)
from service import Service, StartService

pytestmark = pytest.mark.slow

ADDRESSES = ["/users", "/users/1", "/health"]
BEHIND = "the tables are behind: run `alembic upgrade head`"
NOT_OURS = "there are tables that `alembic upgrade head` did not make"

# As the first version of the service made it, before there were migrations.
FIRST_VERSION = {
    "sqlite": """
        CREATE TABLE users (
            id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
            name VARCHAR(100) NOT NULL,
            email VARCHAR(254) NOT NULL,
            version BIGINT DEFAULT '1' NOT NULL,
            CONSTRAINT ck_users_lower_case CHECK (email = lower(email)),
            CONSTRAINT uq_users_email UNIQUE (email)
        )""",
    "postgresql": """
        CREATE TABLE users (
            id BIGINT GENERATED ALWAYS AS IDENTITY,
            name VARCHAR(100) NOT NULL,
            email VARCHAR(254) NOT NULL,
            version BIGINT DEFAULT '1' NOT NULL,
            CONSTRAINT pk_users PRIMARY KEY (id),
            CONSTRAINT ck_users_lower_case CHECK (email = lower(email)),
            CONSTRAINT uq_users_email UNIQUE (email)
        )""",
}

# A later version of the service, which has one column more.
COLUMN = """
    city: Mapped[str] = mapped_column(String(100), server_default="")
    email: Mapped"""
STEPS = Path(__file__).parent / "steps"
OURS = ["id", "name", "email", "version"]


@pytest.fixture
def later(project: Path) -> Path:
    """A copy of the project, one version later."""
    replace(project / "models.py", "\n    email: Mapped", COLUMN)
    shutil.copy(STEPS / "city.py", project / "migrations/versions/0002_city.py")
    return project


def assert_closed(service: Service, client: httpx.Client, reason: str) -> None:
    """See that everything but the documentation is 503, and that the log says why."""
    for address in ADDRESSES:
        assert_unavailable(client.get(address))
    assert_unavailable(client.post("/users", json=GRACE))
    for address in ("/docs", "/openapi.json"):
        assert client.get(address).status_code == 200
    log = logged(service.log, f"The database does not answer: {reason}")
    assert f"Not ready yet: {reason}" in log


def test_a_database_that_is_behind_is_left_alone_until_alembic_upgrade_head_was_run(
    start: StartService, new_database: str, later: Path
) -> None:
    alembic(new_database, "upgrade", "head")
    sql(new_database, "INSERT INTO users (name, email) VALUES ('Ada', 'ada@example.com')")
    service = start(new_database, cwd=later)
    with service.wait() as client:
        assert_closed(service, client, BEHIND)
        assert columns(new_database, "users") == OURS

        alembic(new_database, "upgrade", "head", cwd=later)

        assert [client.get(address).status_code for address in ADDRESSES] == [200] * 3
        assert client.get("/users/1").json() == {"id": 1, "name": "Ada", "email": "ada@example.com"}
        add(client, GRACE)
    assert "city" in columns(new_database, "users")


def test_the_version_before_serves_the_newer_tables_and_warns_once_when_it_starts(
    start: StartService, new_database: str, later: Path
) -> None:
    running = start(new_database)
    with running.wait() as client:
        add(client, ADA)
        alembic(new_database, "upgrade", "head", cwd=later)

        assert [client.get(address).status_code for address in ADDRESSES] == [200] * 3

    started = start(new_database)
    with started.wait() as client, start(new_database, cwd=later).wait() as new:
        for _ in range(3):
            assert [client.get(address).status_code for address in ADDRESSES] == [200] * 3
        assert client.patch("/users/1", json={"name": "Changed"}).headers["etag"] == '"2"'
        add(client, GRACE)
        assert new.get("/users").json() == client.get("/users").json()
        assert new.delete("/users/1").status_code == 204

    assert started.log.read_text().count("WARNING:  The tables are newer than this service") == 1


def test_somebody_elses_tables_are_left_untouched(start: StartService, new_database: str) -> None:
    sql(
        new_database,
        "CREATE TABLE users (login VARCHAR(20), secret VARCHAR(20))",
        "INSERT INTO users VALUES ('ada', 'x'), ('grace', 'y')",
    )
    service = start(new_database)
    with service.wait() as client:
        assert_closed(service, client, NOT_OURS)

    assert sql(new_database, "SELECT * FROM users") == [("ada", "x"), ("grace", "y")]
    assert columns(new_database, "users") == ["login", "secret"]
    assert columns(new_database, "alembic_version") == []


def test_a_database_with_other_tables_only_gets_those_of_the_service_by_alembic(
    start: StartService, new_database: str
) -> None:
    sql(new_database, "CREATE TABLE notes (line VARCHAR(20))")
    service = start(new_database)
    with service.wait() as client:
        assert_closed(service, client, "there are only other tables: run `alembic upgrade head`")
        assert columns(new_database, "users") == []

        alembic(new_database, "upgrade", "head")

        add(client, ADA)
        assert columns(new_database, "notes") == ["line"]


def test_the_table_of_the_first_version_is_served_once_alembic_stamp_was_run(
    start: StartService, new_database: str
) -> None:
    sql(
        new_database,
        FIRST_VERSION[new_database.partition(":")[0]],
        "INSERT INTO users (name, email, version)"
        " VALUES ('Ada Lovelace', 'ada@example.com', 3), ('Grace', 'grace@example.com', 1)",
    )
    service = start(new_database)
    with service.wait() as client:
        assert_closed(service, client, NOT_OURS)
        assert columns(new_database, "alembic_version") == []

        alembic(new_database, "stamp", "0001")

        assert client.get("/health").status_code == 200
        users = [{"id": 1, **ADA}, {"id": 2, "name": "Grace", "email": "grace@example.com"}]
        assert client.get("/users").json() == users
        assert client.get("/users/1").headers["etag"] == '"3"'
        assert client.post("/users", json=ADA).status_code == 409
        new = add(client, {"name": "New", "email": "new@example.com"})
        assert new.json()["id"] > 2
    assert "No new upgrade operations detected" in alembic(new_database, "check")


def test_a_table_of_somebody_else_may_come_and_go(start: StartService, new_database: str) -> None:
    alembic(new_database, "upgrade", "head")
    sql(new_database, "CREATE TABLE notes (line VARCHAR(20))")
    with start(new_database).wait() as client:
        assert client.get("/health").status_code == 200

        sql(new_database, "DROP TABLE notes")

        assert client.get("/health").status_code == 200
        add(client, ADA)


def test_drafting_a_step_while_uvicorn_reloads_changes_no_data(
    start: StartService, new_database: str, project: Path
) -> None:
    service = start(new_database, "--reload", cwd=project)
    try:
        with service.wait() as client:
            add(client, ADA)

            replace(
                project / "models.py",
                "name: Mapped[str] = mapped_column(",
                'name: Mapped[str] = mapped_column("full_name", ',
            )
            alembic(new_database, "revision", "--autogenerate", "-m", "rename", cwd=project)
            (step,) = (project / "migrations" / "versions").glob("*_rename.py")
            # It has reloaded, with the new step, and looked twice: at its start, for the request.
            seen = len(logged(service.log, BEHIND))
            with service.client() as reloaded:
                assert_unavailable(reloaded.get("/users"))
            logged(service.log, BEHIND, seen)

            assert "full_name" in step.read_text()
            assert columns(new_database, "users") == OURS
            assert sql(new_database, "SELECT name, email FROM users") == [tuple(ADA.values())]
    finally:
        service.stop()


@pytest.mark.parametrize("what", ["nothing", "the list of steps"])
def test_a_database_without_tables_gets_them(
    start: StartService, new_database: str, what: str
) -> None:
    if what == "the list of steps":
        alembic(new_database, "upgrade", "head")
        alembic(new_database, "downgrade", "base")
        assert columns(new_database, "alembic_version") == ["version_num"]
        assert sql(new_database, "SELECT * FROM alembic_version") == []

    with start(new_database).wait() as client:
        assert client.get("/health").status_code == 200
        add(client, ADA)

    assert columns(new_database, "users") == OURS
    assert sql(new_database, "SELECT * FROM alembic_version") == [("0001",)]
