"""What only a database server can do: go away, come back, and be more than one."""

import itertools
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import psycopg
import pytest

from helpers import (
    ADA,
    GRACE,
    add,
    assert_unavailable,
    at_once,
    break_connections,
    slow_readers,
    until_served,
    wait_until,
)
from postgres import Postgres
from service import StartService

# Each of them starts a server of its own, or two.
pytestmark = pytest.mark.slow

Ask = Callable[[], httpx.Response]


@pytest.fixture
def service(start: StartService, postgres: Postgres) -> Iterator[httpx.Client]:
    """A client of a service over a PostgreSQL server of its own."""
    with start(postgres.url()).wait() as client:
        yield client


def said(server: Postgres, since: int) -> list[str]:
    """Return the first word of all that the server was told, "" for the empty ping."""
    return re.findall(r"LOG:  (?:statement|execute [^:]*): *(\w*)", server.log()[since:])


def test_a_read_is_one_round_trip_and_a_create_three(
    start: StartService, postgres: Postgres
) -> None:
    postgres.stop()
    postgres.start("log_statement=all")
    with start(postgres.url()).wait() as client:
        address = add(client, ADA).headers["location"]
        read, write = partial(client.get, address), partial(client.patch, address)
        steps: list[tuple[Ask, str]] = [
            (read, "SELECT"),
            (partial(client.get, "/users"), "SELECT"),
            (partial(client.get, "/users", params={"email": ADA["email"]}), "SELECT"),
            (partial(client.head, address), "SELECT"),
            (partial(client.post, "/users", json=GRACE), "BEGIN INSERT COMMIT"),
            (
                partial(client.post, "/users", json=ADA),
                "BEGIN INSERT ROLLBACK BEGIN SELECT ROLLBACK",
            ),
            (partial(write, json={"name": "X"}), "BEGIN SELECT UPDATE COMMIT"),
            (partial(write, json={"name": "X"}), "BEGIN SELECT COMMIT"),
            (partial(client.delete, address), "BEGIN SELECT DELETE COMMIT"),
            (partial(client.delete, address), "BEGIN SELECT ROLLBACK"),
        ]
        for ask, expected in steps:
            read()  # so that the connections, for reads and writes, were used a moment ago
            client.delete("/users/999")
            since = len(postgres.log())

            ask()

            assert said(postgres, since) == expected.split()

        time.sleep(0.6)
        since = len(postgres.log())
        read()
        assert said(postgres, since) == ["", "SELECT"]


def test_a_page_far_back_is_found_without_a_search_through_the_table(
    service: httpx.Client, postgres: Postgres
) -> None:
    with psycopg.connect(postgres.url(), autocommit=True) as connection:

        def count(what: str) -> int:
            found = connection.execute(f"SELECT {what} FROM pg_stat_user_tables".encode())
            return sum(number for (number,) in found)

        # As soon after many writes: the server knows how many rows there are, but has not vacuumed.
        connection.execute("ALTER TABLE users SET (autovacuum_enabled = false)")
        connection.execute(
            "INSERT INTO users (name, email)"
            " SELECT 'User', 'user' || i || '@example.com' FROM generate_series(1, 50000) AS i"
        )
        connection.execute("ANALYZE users")
        by_index, searched = count("idx_scan"), count("seq_tup_read")

        page = service.get("/users", params={"after": 25_000})

        assert [user["id"] for user in page.json()] == [*range(25_001, 25_101)]
        # PostgreSQL publishes its counts within ten seconds.
        wait_until(lambda: count("idx_scan") > by_index, lambda: "no index was used", 20)
        assert count("seq_tup_read") - searched < 1000


def test_no_connection_is_idle_in_a_transaction_while_clients_read_slowly(
    start: StartService, postgres: Postgres
) -> None:
    service = start(postgres.url())
    with service.wait() as client:
        client.get("/users")  # SQLAlchemy asks what types there are, in a transaction
    with psycopg.connect(postgres.url(), autocommit=True) as watch:
        watch.execute(
            "INSERT INTO users (name, email)"
            " SELECT repeat('x', 100), n || '@example.com' FROM generate_series(1, 1000) AS n"
        )
        seen = set()

        with slow_readers(service, "/users?limit=1000", 20):
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
            assert_unavailable(ask())
            assert time.monotonic() - began < 5

        postgres.start()

        assert service.get("/users").json() == [ada]
        assert service.get("/health").status_code == 200
        assert service.patch(f"/users/{ada['id']}", json={}).status_code == 200


def test_lesson_1_connections_that_broke_while_nobody_looked_cost_no_request(
    service: httpx.Client, postgres: Postgres
) -> None:
    crowd = [partial(service.get, "/users")] * 20 + [partial(service.get, "/health")] * 4
    at_once(crowd)

    broken = break_connections(postgres.url())
    time.sleep(0.6)
    answers = at_once(crowd)

    assert broken > 1
    assert [answer.status_code for answer in answers] == [200] * 24
    break_connections(postgres.url())
    time.sleep(0.6)
    add(service, ADA)


def test_connections_that_break_between_two_requests_cost_one_503_each_and_never_500(
    service: httpx.Client, postgres: Postgres
) -> None:
    crowd: list[Ask] = [partial(service.get, "/users")] * 20
    crowd += [partial(service.post, "/users", json=ADA)] * 10
    add(service, ADA)
    for _ in range(5):
        at_once(crowd)

        broken = break_connections(postgres.url())
        answers = at_once(crowd)

        statuses = Counter(answer.status_code for answer in answers)
        assert set(statuses) <= {200, 409, 503}
        assert statuses[503] <= broken
        for answer in answers:
            if answer.status_code == 503:
                assert_unavailable(answer)
        assert {answer.status_code for answer in at_once(crowd)} == {200, 409}


def test_a_service_that_starts_before_its_database_serves_when_it_comes(
    start: StartService, postgres: Postgres
) -> None:
    postgres.stop()
    with start(postgres.url()).wait() as client:
        assert_unavailable(client.get("/users"))
        assert_unavailable(client.get("/health"))

        postgres.start()

        assert until_served(lambda: client.get("/users")).json() == []
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

        with ThreadPoolExecutor() as pool:
            change = pool.submit(client.patch, address, json={"name": "Lost"})
            wait_for_a_lock(postgres)
            other.commit()

        assert_unavailable(change.result())
        assert client.get(address).json()["name"] == "Other"
        assert client.patch(address, json={"name": "Again"}).status_code == 200


def test_a_deadlock_is_503_and_changes_nothing(service: httpx.Client, postgres: Postgres) -> None:
    ada, grace = add(service, ADA), add(service, GRACE)
    address = grace.headers["location"]
    with psycopg.connect(postgres.url()) as other, ThreadPoolExecutor() as pool:
        other.execute(
            "UPDATE users SET email = 'new@example.com' WHERE id = %s", [ada.json()["id"]]
        )

        change = pool.submit(
            service.patch, address, json={"name": "Lost", "email": "new@example.com"}
        )
        wait_for_a_lock(postgres)
        other.execute("UPDATE users SET name = 'Other' WHERE id = %s", [grace.json()["id"]])
        other.commit()

    assert_unavailable(change.result())
    assert service.get(address).json() == grace.json() | {"name": "Other"}


def test_a_column_may_be_widened_while_the_service_runs(
    service: httpx.Client, postgres: Postgres
) -> None:
    address = add(service, ADA).headers["location"]
    for _ in range(12):  # after some, a driver may prepare the statement
        assert service.get(address).status_code == 200

    with psycopg.connect(postgres.url(), autocommit=True) as operator:
        operator.execute("ALTER TABLE users ALTER name TYPE varchar(200)")

    assert [service.get(address).status_code for _ in range(12)] == [200] * 12


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
            standby.promote()

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


def wait_for_a_lock(server: Postgres) -> None:
    """Wait until some statement waits for somebody else's transaction."""
    with psycopg.connect(server.url(), autocommit=True) as watch:
        for _ in range(100):
            if watch.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone():
                return
            time.sleep(0.01)
    raise AssertionError("nothing waits for a lock")
