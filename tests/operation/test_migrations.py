"""The schema: the steps make what the models say. See also test_tables.py."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import httpx
import pytest
import sqlalchemy

from helpers import ADA, add, alembic
from postgres import Postgres, free_port
from service import ROOT, StartService


def said_apart(url: str, *arguments: str) -> tuple[str, str]:
    """Run Alembic as a user does, and return what it says on stdout and on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.slow
def test_the_migrations_make_exactly_the_tables_of_the_models(new_database: str) -> None:
    alembic(new_database, "upgrade", "head")

    assert "No new upgrade operations detected" in alembic(new_database, "check")


@pytest.mark.slow
def test_a_step_can_be_taken_back(new_database: str) -> None:
    alembic(new_database, "upgrade", "head")

    alembic(new_database, "downgrade", "-1")
    assert "(head)" not in alembic(new_database, "current")

    alembic(new_database, "upgrade", "head")
    assert "(head)" in alembic(new_database, "current")


@pytest.mark.slow
def test_the_steps_are_printed_as_sql_that_psql_takes_without_a_database_that_lives(
    start: StartService, postgres: Postgres
) -> None:
    nobody = f"postgresql://users:secret@127.0.0.1:{free_port()}/users"
    script = postgres.directory / "upgrade.sql"

    script.write_text(said_apart(nobody, "upgrade", "head", "--sql")[0])

    assert script.read_text().startswith("BEGIN;\n")
    assert "secret" not in script.read_text()
    postgres.run("psql", "-X", "-v", "ON_ERROR_STOP=1", "-d", postgres.url(), "-f", str(script))
    assert "No new upgrade operations detected" in alembic(postgres.url(), "check")
    with start(postgres.url()).wait() as client:
        add(client, ADA)


@pytest.mark.slow
def test_the_steps_are_printed_as_sql_that_sqlite_takes_and_no_file_is_made(
    start: StartService, tmp_path: Path
) -> None:
    file = tmp_path / "users.db"

    script, _ = said_apart(f"sqlite:///{file}", "upgrade", "head", "--sql")

    assert not file.exists()
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(script)
    assert "No new upgrade operations detected" in alembic(f"sqlite:///{file}", "check")
    with start(f"sqlite:///{file}").wait() as client:
        add(client, ADA)


@pytest.mark.slow
def test_which_database_is_upgraded_is_said_apart_from_what_alembic_prints(
    new_database: str,
) -> None:
    printed, said = said_apart(new_database, "upgrade", "head")

    assert "Database: " not in printed
    (line,) = [line for line in said.splitlines() if line.startswith("Database: ")]
    assert new_database.rpartition("/")[2] in line


def test_plain_sql_needs_only_a_name_and_an_email(
    client: httpx.Client, database: sqlalchemy.Engine
) -> None:
    with database.begin() as connection:
        connection.exec_driver_sql("INSERT INTO users (name, email) VALUES ('A', 'a@example.com')")

    (user,) = client.get("/users").json()

    assert client.get(f"/users/{user['id']}").headers["etag"] == '"1"'
