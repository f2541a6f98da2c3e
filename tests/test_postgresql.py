"""What only a database server can do: go away, come back, and be more than one."""

import itertools
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import psycopg
import pytest

from conftest import StartService
from postgres import Postgres
from test_together import at_once
from test_users import ADA, GRACE, add

Ask = Callable[[], httpx.Response]


@pytest.fixture
def service(start: StartService, postgres: Postgres) -> Iterator[httpx.Client]:
    """A client of a service over a PostgreSQL server of its own."""
    with start(postgres.url()).wait() as client:
        yield client


def statements(server: Postgres, since: int) -> list[str]:
    """What the server was told, without the pool's question whether it is still there."""
    logged = re.findall(r"(?:statement|execute [^:]*): (\w[^\n]*)", server.log()[since:])
    return [statement.split()[0] for statement in logged if statement != "SELECT 1"]


def test_a_read_is_one_statement_and_a_write_is_one_transaction(
    start: StartService, postgres: Postgres
) -> None:
    postgres.stop()
    postgres.start("log_statement=all")
    with start(postgres.url()).wait() as client:
        address = add(client, ADA).headers["location"]
        steps: list[tuple[Ask, str]] = [
            (lambda: client.get("/users"), "SELECT"),
            (lambda: client.get(address), "SELECT"),
            (lambda: client.post("/users", json=GRACE), "BEGIN INSERT COMMIT"),
            (lambda: client.post("/users", json=ADA), "BEGIN INSERT ROLLBACK SELECT"),
            (lambda: client.patch(address, json={"name": "X"}), "BEGIN UPDATE COMMIT"),
            (lambda: client.delete(address), "BEGIN DELETE COMMIT"),
            (lambda: client.delete(address), "BEGIN DELETE ROLLBACK SELECT"),
        ]
        for ask, expected in steps:
            since = len(postgres.log())
            ask()
            assert statements(postgres, since) == expected.split()


def test_no_connection_is_idle_in_a_transaction_while_clients_read_slowly(
    start: StartService, postgres: Postgres
) -> None:
    started = start(postgres.url())
    with started.wait() as client, psycopg.connect(postgres.url(), autocommit=True) as watch:
        watch.execute(
            "INSERT INTO users (name, email)"
            " SELECT repeat('x', 100), n || '@example.com' FROM generate_series(1, 1000) AS n"
        )
        slow = [socket.socket() for _ in range(20)]
        for idle in slow:
            idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            idle.connect((client.base_url.host, client.base_url.port))
            idle.sendall(b"GET /users?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
        seen = set()
        for _ in range(100):
            seen |= set(
                watch.execute(
                    "SELECT state FROM pg_stat_activity"
                    " WHERE client_port IS NOT NULL AND pid <> pg_backend_pid()"
                ).fetchall()
            )
            time.sleep(0.02)
        assert ("idle",) in seen
        assert ("idle in transaction",) not in seen
        started.process.kill()
        for connection in slow:
            connection.close()


def test_a_database_that_goes_away_is_503_and_the_first_request_after_it_is_200(
    service: httpx.Client, postgres: Postgres
) -> None:
    ada = add(service, ADA).json()
    for mode in ("fast", "immediate"):
        for _ in range(20):
            assert service.get("/users").json() == [ada]
        postgres.stop(mode)
        questions: list[Ask] = [
            lambda: service.get("/users"),
            lambda: service.post("/users", json=GRACE),
            lambda: service.get("/health"),
        ]
        for ask in questions:
            began = time.monotonic()
            answer = ask()
            assert time.monotonic() - began < 5
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
            assert set(answer.json()) == {"detail"}
        postgres.start()
        assert service.get("/users").json() == [ada]
        assert service.get("/health").status_code == 200
        assert service.patch(f"/users/{ada['id']}", json={}).status_code == 200


def test_connections_that_broke_while_nobody_looked_cost_no_request(
    service: httpx.Client, postgres: Postgres
) -> None:
    statuses: list[int] = []
    for _ in range(2):
        answers = at_once([partial(service.get, "/users")] * 20)
        statuses += [answer.status_code for answer in answers]
        postgres.stop("immediate")
        postgres.start()
    assert statuses == [200] * 40


def test_a_service_that_starts_before_its_database_serves_when_it_comes(
    start: StartService, postgres: Postgres
) -> None:
    postgres.stop()
    with start(postgres.url()).wait() as client:
        assert client.get("/users").status_code == 503
        assert client.get("/health").status_code == 503
        postgres.start()
        deadline = time.monotonic() + 10
        while client.get("/users").status_code == 503 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert client.get("/users").json() == []
        add(client, ADA)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_spelling_of_the_url_is_taken(
    start: StartService, shared_postgres: Postgres, scheme: str
) -> None:
    url = shared_postgres.url().replace("postgresql:", f"{scheme}:")
    with start(url).wait() as client:
        assert client.get("/health").status_code == 200


def test_a_serialization_failure_is_503_and_changes_nothing(
    start: StartService, postgres: Postgres
) -> None:
    url = f"{postgres.url()}?options=-c%20default_transaction_isolation%3Dserializable"
    with start(url).wait() as client, psycopg.connect(postgres.url()) as other:
        address = add(client, ADA).headers["location"]
        other.execute("UPDATE users SET name = 'Other'")
        refused = in_background(lambda: client.patch(address, json={"name": "Lost"}))
        wait_for_a_lock(postgres)
        other.commit()
        answer = refused()
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert client.get(address).json()["name"] == "Other"
        assert client.patch(address, json={"name": "Again"}).status_code == 200


def test_a_deadlock_is_503_and_changes_nothing(service: httpx.Client, postgres: Postgres) -> None:
    ada, grace = add(service, ADA), add(service, GRACE)
    address = grace.headers["location"]
    with psycopg.connect(postgres.url()) as other:
        other.execute(
            "UPDATE users SET email = 'new@example.com' WHERE id = %s", [ada.json()["id"]]
        )
        change = {"name": "Lost", "email": "new@example.com"}
        refused = in_background(lambda: service.patch(address, json=change))
        wait_for_a_lock(postgres)
        other.execute("UPDATE users SET name = 'Other' WHERE id = %s", [grace.json()["id"]])
        other.commit()
    answer = refused()
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert service.get(address).json() == grace.json() | {"name": "Other"}


def test_a_column_may_be_widened_while_the_service_runs(
    service: httpx.Client, postgres: Postgres
) -> None:
    address = add(service, ADA).headers["location"]
    for _ in range(12):  # after some, the driver prepares the statement
        assert service.get(address).status_code == 200
    with psycopg.connect(postgres.url(), autocommit=True) as operator:
        operator.execute("ALTER TABLE users ALTER name TYPE varchar(200)")
    statuses = [service.get(address).status_code for _ in range(12)]
    assert set(statuses[:1]) <= {200, 503}
    assert set(statuses[1:]) == {200}


def test_when_the_primary_dies_the_standby_takes_over_and_no_acknowledged_write_is_lost(
    start: StartService, make_postgres: Callable[[], Postgres]
) -> None:
    primary, standby = make_postgres(), make_postgres()
    primary.create()
    standby.run("pg_basebackup", "-d", primary.url(), "-D", str(standby.data), "-R")
    standby.start()
    with psycopg.connect(primary.url(), autocommit=True) as operator:
        operator.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        operator.execute("SELECT pg_reload_conf()")

    url = (
        f"postgresql://postgres@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/postgres"
        "?target_session_attrs=read-write"
    )
    acknowledged: list[str] = []
    statuses: Counter[int] = Counter()
    stop = threading.Event()

    def write(client: httpx.Client, writer: int) -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            user = {"name": "Writer", "email": f"{writer}-{number}@example.com"}
            answer = client.post("/users", json=user)
            statuses[answer.status_code] += 1
            if answer.status_code == 201:
                acknowledged.append(user["email"])

    def acknowledge(count: int) -> None:
        target, deadline = len(acknowledged) + count, time.monotonic() + 30
        while len(acknowledged) < target:
            assert time.monotonic() < deadline, statuses
            time.sleep(0.01)

    with start(url).wait() as client, ThreadPoolExecutor() as pool:
        try:
            writers = [pool.submit(write, client, writer) for writer in range(4)]
            acknowledge(100)
            primary.kill()
            standby.run("pg_ctl", "promote", "-D", str(standby.data))
            acknowledge(100)
        finally:
            stop.set()
        for writer in writers:
            writer.result()
        assert set(statuses) == {201, 503}
        with psycopg.connect(standby.url()) as survivor:
            stored = {email for (email,) in survivor.execute("SELECT email FROM users")}
        assert set(acknowledged) <= stored
        assert client.get("/users?limit=1").status_code == 200


def in_background(ask: Ask) -> Ask:
    """Start a request; the result waits for its answer."""
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(ask()))
    thread.start()

    def answer() -> httpx.Response:
        thread.join()
        return answers[0]

    return answer


def wait_for_a_lock(server: Postgres) -> None:
    """Wait until some statement waits for somebody else's transaction."""
    with psycopg.connect(server.url(), autocommit=True) as watch:
        for _ in range(100):
            if watch.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone():
                return
            time.sleep(0.01)
    raise AssertionError("nothing waits for a lock")
