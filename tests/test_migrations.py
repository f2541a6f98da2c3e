"""The schema: made, checked against the models, and carried over from older versions."""

import os
import subprocess
import sys

import httpx
import pytest
import sqlalchemy

from conftest import ROOT, StartService
from test_together import HOLD_THE_SCHEMA
from test_users import ADA

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


def alembic(url: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_migrations_make_exactly_the_tables_of_the_models(new_database: str) -> None:
    alembic(new_database, "upgrade", "head")
    assert "No new upgrade operations detected" in alembic(new_database, "check")


def test_a_database_of_the_first_version_keeps_its_users(
    start: StartService, new_database: str
) -> None:
    engine = sqlalchemy.create_engine(new_database)
    with engine.begin() as connection:
        connection.exec_driver_sql(FIRST_VERSION[engine.dialect.name])
        connection.exec_driver_sql(
            "INSERT INTO users (name, email, version)"
            " VALUES ('Ada Lovelace', 'ada@example.com', 3), ('Grace', 'grace@example.com', 1)"
        )
    engine.dispose()
    service = start(new_database)
    with service.wait() as client:
        assert client.get("/users").json() == [
            {"id": 1, **ADA},
            {"id": 2, "name": "Grace", "email": "grace@example.com"},
        ]
        assert client.get("/users/1").headers["etag"] == '"3"'
        assert client.post("/users", json=ADA).status_code == 409
        created = client.post("/users", json={"name": "New", "email": "new@example.com"})
        assert created.json()["id"] > 2
    assert "No new upgrade operations detected" in alembic(new_database, "check")
    assert "0001" in alembic(new_database, "current")


def test_the_service_upgrades_while_another_of_the_same_version_serves(
    start: StartService, new_database: str
) -> None:
    with start(new_database).wait() as first:
        first.post("/users", json=ADA)
        with start(new_database).wait() as second:
            assert first.get("/users").json() == second.get("/users").json()


def test_plain_sql_needs_only_a_name_and_an_email(
    client: httpx.Client, database: sqlalchemy.Engine
) -> None:
    with database.begin() as connection:
        connection.exec_driver_sql("INSERT INTO users (name, email) VALUES ('A', 'a@example.com')")
    (user,) = client.get("/users").json()
    assert client.get(f"/users/{user['id']}").headers["etag"] == '"1"'


@pytest.fixture
def newer_database(new_database: str) -> str:
    """The URL of a database that a later version of the service has upgraded."""
    alembic(new_database, "upgrade", "head")
    engine = sqlalchemy.create_engine(new_database)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'newer'")
    engine.dispose()
    return new_database


def test_a_service_older_than_its_database_says_so_and_does_not_start(newer_database: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "uvicorn", "main:app", "--port", "0"],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": newer_database},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "Can't locate revision identified by 'newer'" in done.stdout


def test_a_step_can_be_taken_back(new_database: str) -> None:
    alembic(new_database, "upgrade", "head")
    alembic(new_database, "downgrade", "-1")
    assert "(head)" not in alembic(new_database, "current")
    alembic(new_database, "upgrade", "head")
    assert "(head)" in alembic(new_database, "current")


def test_a_step_that_fails_after_the_service_came_up_ends_it(
    start: StartService, newer_database: str
) -> None:
    engine = sqlalchemy.create_engine(newer_database)
    with engine.connect() as other:
        other.exec_driver_sql(HOLD_THE_SCHEMA[engine.dialect.name])
        service = start(newer_database)
        service.wait().close()
    engine.dispose()
    service.process.wait(30)
    assert "Can't locate revision identified by 'newer'" in service.log.read_text()
