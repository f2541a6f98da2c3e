"""What lies in the directory of a SQLite file: after a stop, after a restore, while it moves."""

import itertools
import shutil
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import pytest

from helpers import ADA, GRACE, add, alembic, at_once, sql
from service import StartService

pytestmark = pytest.mark.slow


def names(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


def journal_mode(file: Path) -> str:
    ((mode,),) = sql(f"sqlite:///{file}", "PRAGMA journal_mode")
    return str(mode)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_after_a_clean_stop_the_file_alone_has_every_user(
    start: StartService, tmp_path: Path, stop: signal.Signals, workers: int
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    service = start(f"sqlite:///{data}/users.db", f"--workers={workers}")
    with service.wait() as client:
        for number in range(20):
            add(client, {"name": "User", "email": f"user{number}@example.com"})
        at_once([lambda: service.client().get("/users")] * 8)  # so that each worker reads

    service.stop(stop)

    assert names(data) == ["users.db"]
    copy = shutil.copy(data / "users.db", tmp_path / "copy.db")
    assert sql(f"sqlite:///{copy}", "SELECT count(*) FROM users") == [(20,)]


def test_a_restored_file_is_in_wal_mode_again_so_that_a_reader_stops_no_write(
    start: StartService, tmp_path: Path
) -> None:
    file, backup = tmp_path / "users.db", tmp_path / "backup.db"
    alembic(f"sqlite:///{file}", "upgrade", "head")
    sql(f"sqlite:///{file}", f"VACUUM INTO '{backup}'")
    assert journal_mode(backup) == "delete"
    shutil.copy(backup, file)

    with start(f"sqlite:///{file}").wait() as client:
        add(client, ADA)
        with sqlite3.connect(file) as other:
            other.execute("BEGIN")
            other.execute("SELECT * FROM users").fetchall()

            assert client.post("/users", json=GRACE).status_code == 201

    assert journal_mode(file) == "wal"


def test_a_restored_file_that_somebody_reads_at_the_start_is_in_wal_mode_soon_after(
    start: StartService, tmp_path: Path
) -> None:
    file, backup = tmp_path / "users.db", tmp_path / "backup.db"
    alembic(f"sqlite:///{file}", "upgrade", "head")
    sql(f"sqlite:///{file}", f"VACUUM INTO '{backup}'")
    with sqlite3.connect(backup) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM users").fetchall()
        with start(f"sqlite:///{backup}").wait() as client:
            assert client.get("/users").json() == []
            assert journal_mode(backup) == "delete"
            other.rollback()

            assert client.get("/users").json() == []

            assert journal_mode(backup) == "wal"


@pytest.mark.parametrize("name", ["C#", "what?", "my%20project"])
def test_the_project_keeps_its_data_in_its_own_directory_whatever_that_is_called(
    start: StartService, project: Path, tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    here = tmp_path_factory.mktemp("here")
    moved = Path(shutil.copytree(project, here / name))

    with start("", cwd=moved).wait() as client:
        add(client, ADA)

    assert names(here) == [name]
    assert (moved / "users.db").stat().st_mode & 0o777 == 0o600


def test_the_file_of_the_url_may_have_any_name(start: StartService, tmp_path: Path) -> None:
    directory = tmp_path / "a?b=c&d" / "50% #1 'é'"
    directory.mkdir(parents=True)

    service = start(f'sqlite:///{directory}/what? "x".db')
    with service.wait() as client:
        add(client, ADA)
    service.stop()

    assert names(directory) == ['what? "x".db']


def answers_meanwhile(
    client: httpx.Client, act: Callable[[], object], seconds: float = 5
) -> Counter[int]:
    """Let eight clients read and write while something happens again and again."""
    seen: Counter[int] = Counter()
    end = time.monotonic() + seconds

    def ask(number: int) -> None:
        for turn in itertools.count():
            if time.monotonic() > end:
                return
            user = {"name": "User", "email": f"user{number}-{turn}@example.com"}
            for answer in (client.get("/users"), client.post("/users", json=user)):
                seen[answer.status_code] += 1

    def disturb() -> None:
        while time.monotonic() < end:
            act()

    actions: list[Callable[[], None]] = [disturb, *(partial(ask, number) for number in range(8))]
    at_once(actions)
    return seen


def test_while_the_file_goes_away_and_comes_back_no_answer_is_500(
    start: StartService, tmp_path: Path
) -> None:
    file, away = tmp_path / "users.db", tmp_path / "away.db"
    with start(f"sqlite:///{file}").wait() as client:

        def move() -> None:
            file.rename(away)
            time.sleep(0.002)
            away.rename(file)
            time.sleep(0.02)

        seen = answers_meanwhile(client, move)

        assert set(seen) == {200, 201, 503}
        assert len(client.get("/users", params={"limit": 1000}).json()) == min(1000, seen[201])
