"""docs/backups.md: what its commands save, restore and move is all there, and nothing else."""

import os
import re
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import httpx
import pytest
import sqlalchemy

from commands import BACKUPS, OPERATIONS, block, blocks, run, sections
from helpers import ADA, GRACE, add, alembic, sql
from postgres import Postgres
from service import Service, StartService

pytestmark = pytest.mark.slow

ROLE = "postgresql://users:secret@localhost/users"  # in the documents
NOBODY = 65534


@pytest.fixture
def installed(project: Path) -> Path:
    """A copy of the project after the command of "Test it" in it."""
    (project / ".venv").symlink_to(sys.prefix)
    return project


@pytest.fixture
def owned(postgres: Postgres) -> str:
    """The URL of the role that owns the database, of the guide's two roles."""
    database = postgres.url("users")
    sql(postgres.url(), *block(OPERATIONS, "role-of-the-owner").splitlines())
    owner = database.replace("postgres@", "users:secret@")
    alembic(owner, "upgrade", "head")
    sql(database, *block(OPERATIONS, "role-of-the-service").splitlines())
    return owner


def served_by(owner: str) -> str:
    """Return the same database as the URL of the service's role."""
    return owner.replace("users:secret@", "users_service:another@")


class Remembered:
    """What a client remembers: tags and ids that were given after the backup was made."""

    def __init__(self) -> None:
        self.ids = {0}
        self.tags: set[str] = set()

    def change(self, client: httpx.Client, address: str) -> None:
        """Change a user and add one, as happens after a backup."""
        changed = client.patch(address, json={"name": "After the backup"})
        added = client.post("/users", json={"name": "New", "email": "new@example.com"})
        self.tags |= {changed.headers["etag"], added.headers["etag"]}
        self.ids.add(added.json()["id"])

    def assert_over(self, client: httpx.Client, address: str) -> None:
        """Assert that no tag matches after the restore, and no id is given again."""
        for tag in self.tags:
            stale = client.patch(address, json={"name": "X"}, headers={"If-Match": tag})
            assert stale.status_code == 412
            assert client.get(address, headers={"If-None-Match": tag}).status_code == 200
        for number in self.ids:
            assert client.get(f"/users/{number}").status_code in (404, 422)
        grace = add(client, GRACE)
        assert grace.json()["id"] > max(self.ids)
        client.delete(grace.headers["location"])


def test_a_sqlite_backup_made_while_the_service_runs_brings_everything_back(
    start: StartService, installed: Path
) -> None:
    service = start("", cwd=installed)
    remembered = Remembered()
    with service.wait() as client:
        ada = add(client, ADA)
        run(block(BACKUPS, "backup-sqlite"), installed)
        remembered.change(client, ada.headers["location"])
    service.stop(signal.SIGKILL)
    assert (installed / "users.db-wal").exists()

    for _ in range(2):  # the same backup twice
        run(block(BACKUPS, "restore-sqlite"), installed)

        names = sorted(file.name for file in installed.glob("*.db*"))
        assert names == ["backup.db", "users.db"]
        for name in names:
            assert (installed / name).stat().st_mode & 0o777 == 0o600
        service = start("", cwd=installed)
        with service.wait() as client:
            assert client.get("/users").json() == [ada.json()]
            remembered.assert_over(client, ada.headers["location"])
            remembered.change(client, ada.headers["location"])
        service.stop()


def test_a_backup_of_sqlite_without_users_still_gives_no_id_again(
    start: StartService, installed: Path
) -> None:
    with start("", cwd=installed).wait():
        run(block(BACKUPS, "backup-sqlite"), installed)

    run(block(BACKUPS, "restore-sqlite"), installed)

    with start("", cwd=installed).wait() as client:
        assert add(client, ADA).json()["id"] > 10**12


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("lost", [False, True], ids=["there", "lost"])
def test_a_restore_by_root_leaves_the_file_to_its_owner(installed: Path, lost: bool) -> None:
    alembic(f"sqlite:///{installed}/users.db", "upgrade", "head")
    run(block(BACKUPS, "backup-sqlite"), installed)
    for path in (installed, installed / "users.db"):
        os.chown(path, NOBODY, NOBODY)
    if lost:
        (installed / "users.db").unlink()

    run(block(BACKUPS, "restore-sqlite"), installed)

    restored = (installed / "users.db").stat()
    assert (restored.st_uid, restored.st_gid) == (NOBODY, NOBODY)


def test_a_sqlite_backup_of_a_database_that_is_not_there_fails(installed: Path) -> None:
    run(block(BACKUPS, "backup-sqlite"), installed, status=1)

    assert not list(installed.glob("*.db"))


def test_a_postgresql_backup_is_restored_for_the_role_of_the_service(
    start: StartService, postgres: Postgres, owned: str, tmp_path: Path
) -> None:
    path = f"{postgres.programs}:{os.environ['PATH']}"
    remembered = Remembered()
    with start(served_by(owned)).wait() as client:
        ada = add(client, ADA)
        run(block(BACKUPS, "backup-postgresql"), tmp_path, PATH=path, DATABASE_URL=owned)
        assert (tmp_path / "backup.dump").stat().st_mode & 0o777 == 0o600

        for _ in range(2):  # also while the service runs
            remembered.change(client, ada.headers["location"])

            run(block(BACKUPS, "restore-postgresql"), tmp_path, PATH=path, DATABASE_URL=owned)

            assert client.get("/users").json() == [ada.json()]
            remembered.assert_over(client, ada.headers["location"])


def test_a_postgresql_backup_that_fails_leaves_the_one_before(
    postgres: Postgres, owned: str, tmp_path: Path
) -> None:
    backup = tmp_path / "backup.dump"
    backup.write_text("the one before")
    command = block(BACKUPS, "backup-postgresql")
    path = f"{postgres.programs}:{os.environ['PATH']}"

    # The role of the service may not read the counter of ids.
    run(command, tmp_path, status=1, PATH=path, DATABASE_URL=served_by(owned))

    assert backup.read_text() == "the one before"


def cron_command(program: str) -> str:
    """Return the command of the line with this program, as cron gives it to the shell."""
    (crontab,) = blocks(sections(BACKUPS)["Every night"], "text")
    lines = re.findall(r"^\d+ \d+ \* \* \* root (.*)$", crontab, re.M)
    (found,) = [str(line) for line in lines if program in line]
    assert "%" not in found.replace("\\%", "")  # which cron takes for a line break
    return found.replace("\\%", "%")


def test_cron_makes_a_backup_of_sqlite_for_each_day_of_the_week(installed: Path) -> None:
    alembic(f"sqlite:///{installed}/users.db", "upgrade", "head")
    line = cron_command("VACUUM").replace("/var/lib/users", str(installed))
    line = line.replace("/opt/users", str(installed)).replace("/var/backups/users", "backups")
    (installed / "backups").mkdir()

    for _ in range(2):  # a week later
        run(line, installed)

        (backup,) = (installed / "backups").iterdir()
        assert re.fullmatch(r"\w+\.db", backup.name)
        assert backup.stat().st_mode & 0o777 == 0o600
        with closing(sqlite3.connect(backup)) as connection:
            assert connection.execute("SELECT count(*) FROM users").fetchone() == (0,)


def test_cron_makes_a_backup_of_postgresql_for_each_day_of_the_week(
    postgres: Postgres, owned: str, tmp_path: Path
) -> None:
    line = cron_command("pg_dump").replace("/var/backups/users", str(tmp_path))
    (crontab,) = blocks(sections(BACKUPS)["Every night"], "text")
    assert f"DATABASE_URL={ROLE}\n" in crontab

    path = f"{postgres.programs}:{os.environ['PATH']}"
    run(line, tmp_path, DATABASE_URL=owned, PATH=path)

    (backup,) = tmp_path.iterdir()
    assert re.fullmatch(r"\w+\.dump", backup.name)
    assert backup.stat().st_mode & 0o777 == 0o600
    assert backup.stat().st_size > 0


def test_users_move_from_sqlite_to_postgresql_with_their_ids_versions_and_counter(
    start: StartService, installed: Path, owned: str
) -> None:
    service: Service = start("", cwd=installed)
    odd = {"name": "Tab\\t \\N 'quoted' é", "email": "odd@example.com"}
    with service.wait() as client:
        ada, _ = add(client, ADA), add(client, odd)
        changed = client.patch(ada.headers["location"], json={"name": "Ada King"})
        client.delete(add(client, GRACE).headers["location"])  # the id 3 is over
        before = client.get("/users").json()
    service.stop()

    run(block(BACKUPS, "sqlite-to-postgresql"), installed, DATABASE_URL=owned)

    with start(served_by(owned), cwd=installed).wait() as client:
        assert client.get("/users").json() == before
        assert client.get("/users/1").headers["etag"] == changed.headers["etag"]
        assert add(client, GRACE).json()["id"] == 4
        assert client.patch("/users/1", json={"name": "Ada"}).status_code == 200


def test_a_move_to_postgresql_that_fails_copies_nothing(installed: Path, owned: str) -> None:
    alembic(f"sqlite:///{installed}/users.db", "upgrade", "head")
    with closing(sqlite3.connect(installed / "users.db")) as file, file:
        file.execute("INSERT INTO users (name, email) VALUES ('Ada', 'ada@example.com')")
    sql(owned, "INSERT INTO users (name, email) VALUES ('Other', 'ada@example.com')")

    run(block(BACKUPS, "sqlite-to-postgresql"), installed, status=1, DATABASE_URL=owned)

    assert sql(owned, "SELECT name FROM users") == [("Other",)]


def test_after_logical_replication_the_next_user_gets_an_id_of_its_own(
    start: StartService, shared_postgres: Postgres
) -> None:
    sql(shared_postgres.url(), "CREATE DATABASE replicated")
    replicated = shared_postgres.url("replicated")
    alembic(replicated, "upgrade", "head")
    as_it_was = "INSERT INTO users (id, name, email) OVERRIDING SYSTEM VALUE VALUES "
    sql(replicated, f"{as_it_was} (1, 'Ada', 'ada@example.com')")
    counter = block(BACKUPS, "after-logical-replication")

    sql(replicated, counter)

    (last,) = re.findall(r", (\d+)\)", counter)
    with start(replicated).wait() as client:
        assert add(client, GRACE).json()["id"] == int(last) + 1


def test_a_repair_by_plain_sql_gives_the_user_a_new_tag(
    client: httpx.Client, database: sqlalchemy.Engine
) -> None:
    (repair,) = blocks(sections(BACKUPS)["Repairs by hand"], "sql")
    ada = add(client, ADA)
    address, tag = ada.headers["location"], ada.headers["etag"]

    with database.begin() as connection:
        connection.exec_driver_sql(repair.replace("id = 1", f"id = {ada.json()['id']}"))

    repaired = client.get(address, headers={"If-None-Match": tag})
    assert repaired.json()["name"] == "Ada King"
    stale = client.patch(address, json={"name": "X"}, headers={"If-Match": tag})
    assert stale.status_code == 412
