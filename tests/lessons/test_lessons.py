"""The eight lessons, as promises: each test fails when its lesson is broken in the code."""

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest
import sqlalchemy

from helpers import ADA, GRACE, add, add_many, replace, slow_readers, wait_until
from service import ROOT, StartService


@pytest.fixture
def python(new_database: str) -> Callable[[str], str]:
    """Run a file beside this one in a process of its own, over an empty database."""

    def run(file: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error", Path(__file__).with_name(file)],
            cwd=ROOT,
            env=os.environ | {"DATABASE_URL": new_database, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def main() -> str:
    return (ROOT / "main.py").read_text()


def test_lesson_1_a_connection_is_checked_before_it_is_used(
    start: StartService, tmp_path: Path
) -> None:
    file, backup = tmp_path / "users.db", tmp_path / "backup.db"
    with start(f"sqlite:///{file}").wait() as client:
        ada = add(client, ADA).json()
        with closing(sqlite3.connect(file)) as other:
            other.execute("VACUUM INTO ?", [str(backup)])
        add(client, GRACE)

        for leftover in ("users.db-wal", "users.db-shm"):
            (tmp_path / leftover).unlink()
        backup.replace(file)

        assert client.get("/users").json() == [ada]
        assert add(client, GRACE).json() in client.get("/users").json()


def test_lesson_2_sessions_keep_people_out_of_each_others_way(python: Callable[[str], str]) -> None:
    said = python("lesson_2.py")

    assert said.split() == ["stored", "refused", "One"]


def test_lesson_3_session_local_makes_sessions_that_wait_for_their_commit(
    python: Callable[[str], str],
) -> None:
    said = python("lesson_3.py")

    assert said.split() == ["True", "0", "1", "0", "1"]


def test_lesson_4_all_that_was_checked_is_stored_and_nothing_else(
    client: httpx.Client, database: sqlalchemy.Engine
) -> None:
    def stored() -> list[tuple[str, str]]:
        with database.connect() as connection:
            rows = connection.execute(sqlalchemy.text("SELECT name, email FROM users ORDER BY id"))
            return [(row.name, row.email) for row in rows]

    ada = add(client, ADA)
    assert stored() == [("Ada Lovelace", "ada@example.com")]

    grace = add(client, GRACE)
    taken = {"name": "Changed", "email": ADA["email"]}
    assert client.patch(grace.headers["location"], json=taken).status_code == 409
    assert client.post("/users", json={"name": "\x00", "email": "x@example.com"}).is_error
    assert stored() == [("Ada Lovelace", "ada@example.com"), ("Grace Hopper", "grace@example.com")]

    client.patch(ada.headers["location"], json={"name": "Ada King"})
    client.delete(grace.headers["location"])
    assert stored() == [("Ada King", "ada@example.com")]


def test_lesson_5_get_db_closes_what_it_opened_whatever_happens(
    python: Callable[[str], str],
) -> None:
    said = python("lesson_5.py")

    assert said.split() == ["1", "0"] * 40


@pytest.mark.slow
def test_lesson_5_a_client_that_does_not_read_its_answer_holds_no_session(
    start: StartService, new_database: str, new_engine: sqlalchemy.Engine
) -> None:
    service = start(new_database)
    with service.wait() as client:
        add_many(new_engine, 1000, name="x" * 100)

        with slow_readers(service, "/users?limit=1000", 20):
            for _ in range(50):
                assert client.get("/users?limit=1", timeout=5).status_code == 200
            assert client.post("/users", json=ADA, timeout=5).status_code == 201


def test_lesson_6_the_list_is_what_the_database_holds_as_json(
    client: httpx.Client, database: sqlalchemy.Engine
) -> None:
    add_many(database, 3)
    with database.connect() as connection:
        rows = connection.execute(sqlalchemy.text("SELECT id, name, email FROM users ORDER BY id"))
        expected = [dict(row._mapping) for row in rows]

    answer = client.get("/users")

    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == expected
    endpoints = re.findall(
        r"^@app\.\w+\(.*?\n(?:def|async def) (\w+)\((.*?)\) ->", main(), re.M | re.S
    )
    assert {name for name, _ in endpoints} >= {"read_users", "create_user", "read_user"}
    for name, parameters in endpoints:
        assert name == "read_root" or "db: Session = Depends(get_db)" in parameters


def test_lesson_7_two_requests_never_share_a_session(python: Callable[[str], str]) -> None:
    said = python("lesson_7.py")

    assert said == "False"


def test_lesson_7_requests_at_the_same_time_see_only_their_own_data(client: httpx.Client) -> None:
    def live(number: int) -> None:
        user = {"name": f"User {number}", "email": f"user{number}@example.com"}
        created = add(client, user)
        expected, address = created.json(), created.headers["location"]
        assert expected == {"id": expected["id"], **user}
        for step in range(5):
            assert client.get(address).json() == expected
            expected["name"] = f"User {number} step {step}"
            assert client.patch(address, json={"name": expected["name"]}).json() == expected
        assert client.delete(address).status_code == 204
        assert client.get(address).status_code == 404

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(live, range(48)))


@pytest.mark.slow
def test_lesson_8_the_course_command_runs_the_service_and_reloads_a_change(
    start: StartService, new_database: str, project: Path
) -> None:
    service = start(new_database, "--reload", cwd=project)
    with service.wait() as client:
        assert client.get("/users").content == b"[]"

    replace(project / "main.py", 'title="Users"', 'title="Changed"')

    def changed() -> bool:
        with suppress(httpx.TransportError), service.client() as client:  # between two processes
            return '"title":"Changed"' in client.get("/openapi.json").text
        return False

    wait_until(changed, service.log.read_text, seconds=20)
    with service.client() as client:
        assert client.get("/users").content == b"[]"


def test_importing_the_service_makes_no_file(project: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", "import main"],
        cwd=project,
        env=os.environ | {"DATABASE_URL": ""},
        timeout=60,
        check=True,
    )

    assert not list(project.glob("users.db*"))
