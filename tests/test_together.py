"""Many clients at once: nobody's change is lost, nobody is told something untrue."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import TypeVar

import httpx
import sqlalchemy

from conftest import ROOT, StartService
from test_users import ADA

T = TypeVar("T")

HOLD_THE_SCHEMA = {
    "sqlite": "BEGIN IMMEDIATE",
    "postgresql": "SELECT pg_advisory_xact_lock(7236589)",
}
HOLD_THE_TABLE = {"sqlite": "BEGIN EXCLUSIVE", "postgresql": "LOCK TABLE users IN EXCLUSIVE MODE"}

UPGRADE = """
import sys
import time
from database import upgrade
from sqlalchemy.exc import OperationalError
print("ready", flush=True)
sys.stdin.read()
while True:
    try:
        upgrade()
        break
    except OperationalError:
        time.sleep(0.1)
"""


def at_once(actions: Sequence[Callable[[], T]]) -> list[T]:
    """Start all the actions in the same instant and return what they returned."""
    barrier = Barrier(len(actions))

    def act(action: Callable[[], T]) -> T:
        barrier.wait()
        return action()

    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(act, actions))


def test_of_fifty_equal_posts_one_creates_the_user(client: httpx.Client) -> None:
    answers = at_once([lambda: client.post("/users", json=ADA)] * 50)
    assert Counter(answer.status_code for answer in answers) == {201: 1, 409: 49}
    assert len({answer.headers["location"] for answer in answers}) == 1
    assert len(client.get("/users").json()) == 1


def test_changing_a_user_while_it_is_deleted_is_never_a_500_and_deletes_once(
    client: httpx.Client,
) -> None:
    for _ in range(25):
        address = client.post("/users", json=ADA).headers["location"]
        change = partial(client.patch, address, json={"name": "New"})
        deletion = partial(client.delete, address)
        statuses = [answer.status_code for answer in at_once([change, deletion] * 4)]
        assert set(statuses[::2]) <= {200, 404}
        assert Counter(statuses[1::2]) == {204: 1, 404: 3}


def test_of_two_changes_to_the_same_version_one_is_refused(client: httpx.Client) -> None:
    address = client.post("/users", json=ADA).headers["location"]
    for _ in range(25):
        version = {"If-Match": client.get(address).headers["etag"]}
        one = partial(client.patch, address, json={"name": "One"}, headers=version)
        two = partial(client.patch, address, json={"name": "Two"}, headers=version)
        answers = at_once([one, two])
        assert sorted(answer.status_code for answer in answers) == [200, 412]
        (done,) = (answer for answer in answers if answer.status_code == 200)
        assert client.get(address).json() == done.json()


def test_counting_up_with_if_match_and_retries_loses_no_step(client: httpx.Client) -> None:
    address = client.post("/users", json=ADA | {"name": "0"}).headers["location"]

    def count_up() -> None:
        for _ in range(5):
            while True:
                read = client.get(address)
                name = str(int(read.json()["name"]) + 1)
                tag = read.headers["etag"]
                answer = client.patch(address, json={"name": name}, headers={"If-Match": tag})
                if answer.status_code == 200:
                    break
                assert answer.status_code == 412

    at_once([count_up] * 8)
    assert client.get(address).json()["name"] == "40"
    assert client.get(address).headers["etag"] == '"41"'


def test_four_services_started_at_once_on_an_empty_database_all_come_up(
    start: StartService, new_database: str
) -> None:
    services = [start(new_database) for _ in range(4)]
    clients = [service.wait() for service in services]
    for number, client in enumerate(clients):
        user = {"name": "Ada", "email": f"ada{number}@example.com"}
        assert client.post("/users", json=user).status_code == 201
    for client in clients:
        assert len(client.get("/users").json()) == 4
        client.close()


def test_the_tables_are_created_once_however_many_ask_in_the_same_millisecond(
    create_database: Callable[[], str],
) -> None:
    for url in (create_database(), create_database()):
        waiting, go = os.pipe()
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", UPGRADE],
                cwd=ROOT,
                env=os.environ | {"DATABASE_URL": url},
                stdin=waiting,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(6)
        ]
        for process in processes:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            process.stdout.close()
        os.close(go)  # all of them read the end of their input at once
        os.close(waiting)
        assert [process.wait(30) for process in processes] == [0] * 6


def test_a_service_that_starts_while_the_schema_is_locked_says_503_and_recovers(
    start: StartService, new_database: str
) -> None:
    engine = sqlalchemy.create_engine(new_database)
    with engine.connect() as other:
        other.exec_driver_sql(HOLD_THE_SCHEMA[engine.dialect.name])
        client = start(new_database).wait()
        refused = client.get("/users")
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
    engine.dispose()
    deadline = time.monotonic() + 10
    while client.get("/users").status_code == 503 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert client.get("/users").json() == []
    assert client.post("/users", json=ADA).status_code == 201
    client.close()


def test_a_write_waits_for_another_program_or_is_told_when_to_come_back(
    client: httpx.Client, database: sqlalchemy.Engine
) -> None:
    with database.connect() as other:
        other.exec_driver_sql(HOLD_THE_TABLE[database.dialect.name])
        with ThreadPoolExecutor() as pool:
            write = pool.submit(client.post, "/users", json=ADA)
            reads = [client.get("/users") for _ in range(10)]
            assert not write.done()
            refused = write.result()
        assert [read.json() for read in reads] == [[]] * 10
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        with ThreadPoolExecutor() as pool:
            write = pool.submit(client.post, "/users", json=ADA)
            other.rollback()
            assert write.result().status_code == 201
