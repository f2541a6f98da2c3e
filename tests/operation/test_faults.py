"""What goes wrong in a machine room: locks, kills, and a shutdown in the middle of things."""

import itertools
import resource
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import pytest
import sqlalchemy

from helpers import ADA, GRACE, HOLD_THE_TABLE, add, assert_unavailable, at_once, wait_until
from service import Service, StartService

pytestmark = pytest.mark.slow

# The longest lock that another program takes, and how long it keeps it, in seconds.
HOLD = {
    "sqlite": ("BEGIN EXCLUSIVE", 8),
    "postgresql": ("LOCK TABLE users IN ACCESS EXCLUSIVE MODE", 20),
}


def test_while_another_program_holds_the_lock_everybody_is_answered_within_ten_seconds(
    client: httpx.Client, shared_service: Service, database: sqlalchemy.Engine
) -> None:
    ada = add(client, ADA)
    lock, seconds = HOLD[database.dialect.name]
    crowd = shared_service.client(limits=httpx.Limits())
    crowd.timeout = httpx.Timeout(10)
    requests = {
        "write": lambda: crowd.post("/users", json=GRACE),
        "change": lambda: crowd.patch(ada.headers["location"], json={"name": "Changed"}),
        "read": lambda: crowd.get("/users"),
        "health": lambda: crowd.get("/health"),
    }
    answers: list[tuple[str, httpx.Response]] = []

    def ask(kind: str) -> None:
        while time.monotonic() < end:
            answers.append((kind, requests[kind]()))
            time.sleep(0.1)

    with database.connect() as other, crowd:
        other.exec_driver_sql(lock)
        end = time.monotonic() + seconds
        at_once([partial(ask, kind) for kind in requests] * 20)

    for kind, answer in answers:
        if kind in ("read", "health") and database.dialect.name == "sqlite":
            assert answer.status_code == 200
        else:
            assert_unavailable(answer)
    assert {kind for kind, _ in answers} == set(requests)
    assert client.get("/users").json() == [ada.json()]
    afterwards = at_once([partial(client.get, "/users")] * 20)
    assert [answer.status_code for answer in afterwards] == [200] * 20
    add(client, GRACE)


def test_what_was_acknowledged_is_there_after_kill_9(
    start: StartService, new_database: str
) -> None:
    asked: set[str] = set()
    acknowledged: dict[str, str] = {}

    def write(client: httpx.Client, writer: str) -> None:
        for number in itertools.count():
            email = f"{writer}-{number}@example.com"
            asked.add(email)
            try:
                answer = client.post("/users", json={"name": "Writer", "email": email})
            except httpx.TransportError:
                return
            assert answer.status_code == 201
            acknowledged[email] = answer.headers["location"]

    def at_least(count: int) -> bool:
        return len(acknowledged) >= count

    for kill in range(3):
        service = start(new_database)
        enough = len(acknowledged) + 100
        with service.wait() as client, ThreadPoolExecutor() as pool:
            writers = [pool.submit(write, client, f"{kill}-{writer}") for writer in range(8)]
            try:
                wait_until(partial(at_least, enough), service.log.read_text, seconds=60)
            finally:
                service.stop(signal.SIGKILL)  # which ends the writers, too
            for writer in writers:
                writer.result()

        service = start(new_database)
        with service.wait() as client:
            for email in asked:
                again = client.post("/users", json={"name": "Writer", "email": email})
                if email in acknowledged:
                    assert again.status_code == 409
                    assert again.headers["location"] == acknowledged[email]
                    assert client.get(acknowledged[email]).json()["email"] == email
                acknowledged[email] = again.headers["location"]
            service.stop()


def test_sigterm_answers_what_was_asked(
    start: StartService, new_database: str, new_engine: sqlalchemy.Engine
) -> None:
    service = start(new_database)
    with service.wait() as client, new_engine.connect() as other, ThreadPoolExecutor() as pool:
        other.exec_driver_sql(HOLD_THE_TABLE[new_engine.dialect.name])
        waiting = pool.submit(client.post, "/users", json=ADA)
        time.sleep(0.5)
        assert not waiting.done()

        service.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        other.rollback()

        assert waiting.result().status_code == 201
        service.process.wait(15)
    with start(new_database).wait() as client:
        assert [user["name"] for user in client.get("/users").json()] == [ADA["name"]]


def test_with_no_file_descriptor_left_the_answer_is_503_until_there_is_one(
    start: StartService, new_database: str, new_engine: sqlalchemy.Engine
) -> None:
    service = start(new_database)
    pid = service.process.pid
    with (
        service.wait() as client,
        service.client() as writer,
        ThreadPoolExecutor() as pool,
        new_engine.connect() as other,
    ):
        for idle in (client, writer):  # its connection stays open
            assert idle.get("/nothing").status_code == 404
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        # The one connection to the database that the start has left is kept busy.
        other.exec_driver_sql(HOLD_THE_TABLE[new_engine.dialect.name])

        # All of those below the limit are in use: 0, 1 and 2.
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        write = pool.submit(writer.post, "/users", json=ADA)
        time.sleep(0.5)
        assert_unavailable(client.get("/users"))
        assert_unavailable(client.get("/health"))

        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        assert client.get("/users").json() == []
        assert client.get("/health").status_code == 200
        other.rollback()
        assert write.result().status_code == 201
