"""A service starts and ends in time, whatever its database does meanwhile."""

import itertools
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psycopg
import pytest
import sqlalchemy

from forks import Fork
from helpers import (
    ADA,
    HOLD_THE_SCHEMA,
    add,
    alembic,
    assert_unavailable,
    columns,
    logged,
    replace,
    sql,
    until_served,
)
from postgres import Postgres
from production.settings import LOCK_TIMEOUT
from service import ROOT, StartService

pytestmark = pytest.mark.slow
STEPS = Path(__file__).parent / "steps"
END = 15  # seconds, as docs/operations.md says


@contextmanager
def frozen(server: Postgres) -> Iterator[None]:
    """Stop all processes of the server, which keep their connections and say nothing."""
    main = int((server.data / "postmaster.pid").read_text().split()[0])
    children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
    processes = [main, *map(int, children)]
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


def ask_and_wait(client: httpx.Client) -> None:
    with suppress(httpx.TransportError):  # the service ends meanwhile
        client.get("/users")
    with suppress(httpx.TransportError):
        client.post("/users", json=ADA)


@pytest.mark.parametrize(
    ("stop", "workers", "idle"),
    [
        *itertools.product([signal.SIGTERM, signal.SIGINT], [1, 2], [0]),
        (signal.SIGTERM, 1, 0.7),  # so long that a connection is looked at before its next use
    ],
)
def test_the_service_ends_in_time_when_told_to_though_postgresql_is_frozen(
    start: StartService, postgres: Postgres, stop: signal.Signals, workers: int, idle: float
) -> None:
    options = (f"--workers={workers}", "--timeout-graceful-shutdown=10")
    service = start(postgres.url(), *options)
    with service.wait() as client:
        until_served(lambda: client.get("/users"))
        time.sleep(idle)
        with frozen(postgres):
            requests = [
                threading.Thread(target=ask_and_wait, args=[service.client()]) for _ in range(30)
            ]
            for request in requests:
                request.start()
            time.sleep(1)

            began = time.monotonic()
            service.stop(stop)

            assert time.monotonic() - began < END
    for request in requests:
        request.join()


def test_the_service_ends_in_time_though_postgresql_says_nothing_to_a_new_connection(
    start: StartService, postgres: Postgres
) -> None:
    with psycopg.connect(postgres.url()) as other:
        other.execute("LOCK TABLE pg_type")  # of which the first question is, SQLAlchemy's own
        service = start(postgres.url(), "--timeout-graceful-shutdown=10")
        service.wait().close()

        began = time.monotonic()
        service.stop()

        assert time.monotonic() - began < END


def test_a_first_start_that_waits_for_a_standby_serves_503_and_ends_when_told_to(
    start: StartService, postgres: Postgres
) -> None:
    sql(
        postgres.url(),
        "ALTER SYSTEM SET synchronous_standby_names = 'nobody'",
        "SELECT pg_reload_conf()",
    )
    service = start(postgres.url(), "--timeout-graceful-shutdown=10")
    with service.wait() as client:
        assert_unavailable(client.get("/users"))
        assert_unavailable(client.get("/health"))

        began = time.monotonic()
        service.stop()

        assert time.monotonic() - began < END


def test_alembic_waits_for_another_change_longer_than_a_request_for_a_lock(
    new_database: str, new_engine: sqlalchemy.Engine, tmp_path: Path
) -> None:
    environment = os.environ | {"DATABASE_URL": new_database}
    with new_engine.connect() as other:
        other.exec_driver_sql(HOLD_THE_SCHEMA[other.dialect.name])
        with Fork(["alembic", "upgrade", "head"], ROOT, environment, tmp_path / "log") as waiting:
            time.sleep(LOCK_TIMEOUT + 4)
            assert waiting.poll() is None

            other.rollback()

            assert waiting.wait(20) == 0
    assert "email" in columns(new_database, "users")


def test_alembic_says_which_database_it_alters_and_keeps_the_password_to_itself(
    new_database: str,
) -> None:
    url = new_database.replace("postgres@", "postgres:se%40cret@")

    said = alembic(url, "upgrade", "head")

    name = new_database.rpartition("/")[2]
    assert f"{name}" in said.partition("Database: ")[2].splitlines()[0]
    assert "cret" not in said


def test_a_step_may_have_a_block_that_runs_in_no_transaction(
    new_database: str, project: Path
) -> None:
    alembic(new_database, "upgrade", "head")
    sql(new_database, "INSERT INTO users (name, email) VALUES ('before', 'a@example.com')")
    shutil.copy(STEPS / "index.py", project / "migrations/versions/0002_index.py")

    alembic(new_database, "upgrade", "head", cwd=project)

    assert sql(new_database, "SELECT name FROM users") == [("after",)]
    assert "0002 (head)" in alembic(new_database, "current", cwd=project)


def test_a_stamp_without_the_tables_is_reported_as_tables_that_are_missing(
    start: StartService, new_database: str
) -> None:
    alembic(new_database, "stamp", "head")

    service = start(new_database)
    with service.wait() as client:
        for address in ("/users", "/users/1", "/health"):
            assert_unavailable(client.get(address))
        logged(service.log, "The database does not answer: tables are missing: users")

        alembic(new_database, "stamp", "base")

        assert until_served(lambda: client.get("/users")).json() == []


def test_no_id_is_given_out_again_after_a_step_has_rebuilt_the_table(
    new_database: str, project: Path, start: StartService
) -> None:
    with start(new_database, cwd=project).wait() as client:
        for number in range(1, 6):
            add(client, {"name": "User", "email": f"user{number}@example.com"})
        client.delete("/users/5")
        client.delete("/users/4")
    replace(project / "models.py", "String(100)", "String(200)")
    alembic(new_database, "revision", "--autogenerate", "-m", "Longer names", cwd=project)

    alembic(new_database, "upgrade", "head", cwd=project)

    sql(new_database, "DELETE FROM users")
    alembic(new_database, "downgrade", "-1", cwd=project)  # of a table without rows
    assert "(head)" not in alembic(new_database, "current", cwd=project)
    alembic(new_database, "upgrade", "head", cwd=project)
    with start(new_database, cwd=project).wait() as client:
        assert add(client, ADA).json()["id"] == 6
