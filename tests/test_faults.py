"""What goes wrong in a machine room: locks, kills, and a shutdown in the middle of things."""

import itertools
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import sqlalchemy

from conftest import ROOT, StartService
from test_together import HOLD_THE_TABLE, at_once
from test_users import ADA, GRACE, add

# The longest lock that another program takes, and how long it keeps it, in seconds.
HOLD = {
    "sqlite": ("BEGIN EXCLUSIVE", 8),
    "postgresql": ("LOCK TABLE users IN ACCESS EXCLUSIVE MODE", 20),
}


def test_while_another_program_holds_the_lock_everybody_is_answered_within_ten_seconds(
    client: httpx.Client, database: sqlalchemy.Engine
) -> None:
    ada = add(client, ADA)
    lock, seconds = HOLD[database.dialect.name]
    crowd = httpx.Client(base_url=client.base_url, timeout=10, limits=httpx.Limits())
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
        if kind == "health" or (kind == "read" and database.dialect.name == "sqlite"):
            assert answer.status_code == 200
        else:
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
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

    for kill in range(3):
        service = start(new_database)
        enough = len(acknowledged) + 100
        with service.wait() as client, ThreadPoolExecutor() as pool:
            writers = [pool.submit(write, client, f"{kill}-{writer}") for writer in range(8)]
            while len(acknowledged) < enough:
                time.sleep(0.01)
            service.stop(signal.SIGKILL)
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


def test_sigterm_answers_what_was_asked_and_waits_for_nobody_else(
    start: StartService, new_database: str
) -> None:
    readme = (ROOT / "README.md").read_text()
    command = re.search(r"^uvicorn main:app (.*--timeout-graceful-shutdown.*)$", readme, re.M)
    assert command
    options = re.sub(r"--(host|port) \S+", "", command[1]).split()
    service = start(new_database, *options)
    engine = sqlalchemy.create_engine(new_database)
    with service.wait() as client:
        host, port = client.base_url.host, client.base_url.port or 0
        add(client, ADA)
        with socket.create_connection((host, port)) as half, engine.connect() as other:
            half.sendall(
                b"POST /users HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b'Content-Length: 100\r\n\r\n{"name": "A'
            )
            other.exec_driver_sql(HOLD_THE_TABLE[engine.dialect.name])
            with ThreadPoolExecutor() as pool:
                waiting = pool.submit(client.post, "/users", json=GRACE)
                time.sleep(0.5)
                assert not waiting.done()
                service.process.send_signal(signal.SIGTERM)
                began = time.monotonic()
                time.sleep(0.5)
                other.rollback()
                assert waiting.result().status_code == 201
            assert half.recv(4096).startswith(b"HTTP/1.1 408 ")
            service.process.wait(15)
            assert time.monotonic() - began < 15
    engine.dispose()
    with start(new_database).wait() as client:
        assert [user["name"] for user in client.get("/users").json()] == [
            ADA["name"],
            GRACE["name"],
        ]
