"""The database fails in every way that can be arranged: 503, a reason in the log, well again."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import httpx
import psycopg
import pytest

from helpers import ADA, GRACE, add, alembic, assert_unavailable, at_once, logged, sql, until_served
from postgres import Postgres
from service import Service, StartService

pytestmark = pytest.mark.slow

READS = ["GET /users", "GET /users/1", "GET /health"]
WRITES = ["POST /users", "PATCH /users/1", "DELETE /users/1"]
BODIES = {"POST": {"name": "New", "email": "new@example.com"}, "PATCH": {"name": "Changed"}}


def ask(client: httpx.Client, request: str) -> httpx.Response:
    method, address = request.split()
    return client.request(method, address, json=BODIES.get(method))


def assert_out(service: Service, client: httpx.Client, requests: list[str], reason: str) -> None:
    """See that these requests are 503, soon, and that the log gives the reason, once."""
    seen = len(service.log.read_text())
    began = time.monotonic()

    answers = at_once([partial(ask, client, request) for request in requests])

    assert time.monotonic() - began < 10
    for answer in answers:
        assert_unavailable(answer)
    log = logged(service.log, "The database does not answer: ")
    lines = [line for line in log.splitlines() if "The database does not answer: " in line]
    assert any(reason in line for line in lines), log
    new = [line for line in log[seen:].splitlines() if line in lines]
    assert len(new) == len(set(new))
    assert "Traceback" not in log


def assert_well(client: httpx.Client) -> None:
    """See that everything works, with Ada as user 1, who gets another name."""
    for request in [*READS, "PATCH /users/1", "POST /users"]:
        answer = until_served(partial(ask, client, request))
        assert answer.status_code in {200, 201}, (request, answer.text)
    assert client.get("/users/1").json() == {"id": 1, **ADA, "name": "Changed"}


def path_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Path:
    """A file of 100 pages and more, the first of them Ada's, with nothing in files beside it."""
    file = tmp_path / "users.db"
    alembic(f"sqlite:///{file}", "upgrade", "head")
    with sqlite3.connect(file) as connection:
        connection.execute("INSERT INTO users (name, email) VALUES (?, ?)", [*ADA.values()])
        connection.executemany(
            "INSERT INTO users (name, email) VALUES (?, ?)",
            [("x" * 100, f"{'y' * 200}{number}@example.com") for number in range(1500)],
        )
    connection.close()  # which empties the write-ahead log into the file
    return file


@pytest.fixture
def served_file(start: StartService, sqlite_file: Path) -> Iterator[tuple[Service, httpx.Client]]:
    service = start(f"sqlite:///{sqlite_file}")
    with service.wait() as client:
        yield service, client


def test_a_sqlite_file_that_is_moved_away_is_503_until_it_is_back(
    served_file: tuple[Service, httpx.Client], sqlite_file: Path
) -> None:
    service, client = served_file
    assert client.get("/users").status_code == 200

    sqlite_file.rename(sqlite_file.with_name("moved.db"))
    assert_out(service, client, READS + WRITES, "unable to open database file")
    assert not sqlite_file.exists()
    sqlite_file.with_name("moved.db").rename(sqlite_file)

    assert_well(client)


def spoil(file: Path, part: str) -> None:
    """Overwrite the header, or all pages but the first."""
    size = file.stat().st_size
    offset, length = {"header": (0, 100), "pages": (4096, size)}[part]
    with file.open("r+b") as stream:
        stream.seek(offset)
        stream.write(b"\xa5" * (min(offset + length, size) - offset))


REASONS = {"header": "file is not a database", "pages": "database disk image is malformed"}


@pytest.mark.parametrize("part", REASONS)
def test_a_sqlite_file_that_is_corrupt_at_the_start_is_503_until_a_good_one_takes_its_place(
    start: StartService, sqlite_file: Path, part: str
) -> None:
    good = Path(shutil.copy(sqlite_file, sqlite_file.with_name("good.db")))
    spoil(sqlite_file, part)
    service = start(f"sqlite:///{sqlite_file}")
    with service.wait() as client:
        assert_out(service, client, READS + WRITES, REASONS[part])

        good.replace(sqlite_file)

        assert_well(client)


def test_a_sqlite_file_that_becomes_corrupt_is_503_until_a_good_one_takes_its_place(
    served_file: tuple[Service, httpx.Client], sqlite_file: Path
) -> None:
    good = Path(shutil.copy(sqlite_file, sqlite_file.with_name("good.db")))
    service, client = served_file
    # Not Ada: a connection may keep her page, and go on serving it.
    assert client.get("/users/1000").status_code == 200

    spoil(sqlite_file, "pages")
    assert_out(service, client, READS + WRITES, REASONS["pages"])
    good.replace(sqlite_file)

    assert_well(client)


@pytest.fixture
def bound_by_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start services that may not write to what is read-only, as root may."""
    if os.geteuid() != 0:
        return
    setpriv = shutil.which("setpriv")
    if not setpriv:
        pytest.skip("root may write to everything, and there is no setpriv to take that away")
    python = tmp_path / "python"
    capabilities = "-dac_override,-dac_read_search"
    python.write_text(
        f'#!/bin/sh\nexec {setpriv} --bounding-set={capabilities} {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))


@pytest.mark.usefixtures("bound_by_permissions")
def test_a_read_only_sqlite_file_is_503_for_writes_until_it_is_writable(
    start: StartService, sqlite_file: Path
) -> None:
    sqlite_file.chmod(0o400)
    service = start(f"sqlite:///{sqlite_file}", "--workers=1")  # which is no fork
    with service.wait() as client:
        assert_out(service, client, WRITES, "attempt to write a readonly database")
        for request in READS:
            assert ask(client, request).status_code == 200

        for file in sqlite_file.parent.glob("users.db*"):
            file.chmod(0o600)

        assert_well(client)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may change an owner"
)
@pytest.mark.usefixtures("bound_by_permissions")
def test_a_sqlite_file_of_another_owner_is_503_for_writes_until_it_is_the_service_s_own(
    start: StartService, sqlite_file: Path
) -> None:
    sqlite_file.chmod(0o644)
    shutil.chown(sqlite_file, "nobody")
    service = start(f"sqlite:///{sqlite_file}", "--workers=1")  # which is no fork
    with service.wait() as client:
        assert_out(service, client, WRITES, "attempt to write a readonly database")
        for request in READS:
            assert ask(client, request).status_code == 200

        for file in sqlite_file.parent.glob("users.db*"):
            shutil.chown(file, "root")

        until_served(lambda: client.post("/users", json=GRACE), seconds=5)
        assert_well(client)
        writes = at_once([partial(ask, client, "PATCH /users/1")] * 20)
        assert [answer.status_code for answer in writes] == [200] * 20


@pytest.mark.skipif(not shutil.which("prlimit"), reason="no prlimit, which Linux has")
def test_a_sqlite_file_that_cannot_grow_is_503_for_writes_until_it_can(
    served_file: tuple[Service, httpx.Client], sqlite_file: Path
) -> None:
    def limit(size: int | str) -> None:
        command = ["prlimit", f"--fsize={size}:unlimited", f"--pid={service.process.pid}"]
        subprocess.run(command, check=True)

    service, client = served_file
    add(client, GRACE)
    before = client.get("/users?limit=1000").json()
    size = sqlite_file.with_name("users.db-wal").stat().st_size
    assert size > service.log.stat().st_size + 10_000  # the log may grow meanwhile

    limit(size)
    assert_out(service, client, WRITES, "disk I/O error")
    for request in READS:
        assert ask(client, request).status_code == 200
    assert client.get("/users?limit=1000").json() == before
    limit("unlimited")

    assert_well(client)


def test_a_users_table_that_is_taken_away_is_503_until_it_is_back(
    start: StartService, new_database: str
) -> None:
    service = start(new_database)
    with service.wait() as client:
        add(client, ADA)

        sql(new_database, "ALTER TABLE users RENAME TO gone")
        assert_out(service, client, ["GET /health"], "tables are missing: users")
        assert_out(service, client, [*READS[:2], *WRITES], "users")
        sql(new_database, "ALTER TABLE gone RENAME TO users")

        assert_well(client)


@contextmanager
def stopped(postgres: Postgres) -> Iterator[None]:
    postgres.stop()
    yield
    postgres.start()


@contextmanager
def locked(postgres: Postgres) -> Iterator[None]:
    with psycopg.connect(postgres.url("users")) as other:
        other.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        yield
        other.rollback()


@contextmanager
def read_only(postgres: Postgres) -> Iterator[None]:
    alter = "ALTER SYSTEM SET default_transaction_read_only"
    with psycopg.connect(postgres.url(), autocommit=True) as operator:
        operator.execute("SET default_transaction_read_only = off")
        for value, want in (("on", "on"), ("off", "off")):
            operator.execute(f"{alter} = {value}".encode())
            operator.execute("SELECT pg_reload_conf()")
            time.sleep(0.5)  # until every server process has noticed
            if want == "on":
                yield


@contextmanager
def closed_to_us(postgres: Postgres) -> Iterator[None]:
    rules = postgres.data / "pg_hba.conf"
    trusting = rules.read_text()
    rules.write_text(trusting.replace("trust", "scram-sha-256"))
    postgres.stop()
    postgres.start("log_connections=off")
    yield
    rules.write_text(trusting)
    postgres.run("pg_ctl", "reload", "-D", str(postgres.data))


@contextmanager
def renamed(postgres: Postgres) -> Iterator[None]:
    with psycopg.connect(postgres.url(), autocommit=True) as operator:
        operator.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'users'"
        )
        operator.execute("ALTER DATABASE users RENAME TO gone")
        yield
        operator.execute("ALTER DATABASE gone RENAME TO users")


@pytest.mark.parametrize(
    ("outage", "options", "reason"),
    [
        (stopped, "", "onnection refused"),
        (renamed, "", 'database "users" does not exist'),
        (closed_to_us, "", "no password supplied"),
        (locked, "", "due to lock timeout"),
        (locked, "?options=-c%20statement_timeout%3D1s", "due to statement timeout"),
        (read_only, "", "in a read-only transaction"),
    ],
)
def test_an_outage_of_postgresql_is_503_with_its_reason_in_the_log_until_it_ends(
    start: StartService,
    postgres: Postgres,
    outage: Callable[[Postgres], AbstractContextManager[None]],
    options: str,
    reason: str,
) -> None:
    sql(postgres.url(), "CREATE DATABASE users")
    service = start(postgres.url("users") + options)
    with service.wait() as client:
        add(client, ADA)

        with outage(postgres):
            time.sleep(0.6)  # connections used a moment ago are not checked
            if outage is read_only:
                assert_out(service, client, WRITES, reason)
                for request in READS:
                    assert ask(client, request).status_code == 200
            else:
                assert_out(service, client, READS + WRITES, reason)

        assert_well(client)


def test_a_postgresql_database_that_is_dropped_is_503_until_its_tables_are_made(
    start: StartService, postgres: Postgres
) -> None:
    sql(postgres.url(), "CREATE DATABASE users")
    service = start(postgres.url("users"))
    with service.wait() as client:
        add(client, GRACE)

        sql(postgres.url(), "DROP DATABASE users WITH (FORCE)")
        time.sleep(0.6)  # connections used a moment ago are not checked
        assert_out(service, client, READS + WRITES, 'database "users" does not exist')
        sql(postgres.url(), "CREATE DATABASE users")
        assert_out(service, client, ["GET /health"], "tables are missing: ")
        alembic(postgres.url("users"), "upgrade", "head")
        add(client, ADA)

        assert_well(client)
