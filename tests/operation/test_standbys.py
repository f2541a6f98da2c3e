"""Reads on the standbys, writes on the primary: DATABASE_READ_URL over three PostgreSQL servers."""

import itertools
import re
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from commands import HOSTS as PAGE
from commands import block
from helpers import (
    ADA,
    add,
    alembic,
    assert_unavailable,
    at_once,
    logged,
    reason_not_to_start,
    sql,
    until_served,
    wait_until,
)
from postgres import Postgres
from service import Service, StartService

pytestmark = pytest.mark.slow

HOSTS = dict(re.findall(r"^(\w+)=(\S+)$", block(PAGE, "hosts"), re.M))
URL, READ_URL = HOSTS["DATABASE_URL"], HOSTS["DATABASE_READ_URL"]
ALL_STANDBYS = block(PAGE, "all-standbys")
WITHOUT_THE_FIRST = block(PAGE, "without-the-first")
NO_STANDBY = "ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf();"
numbers = itertools.count(1)
SOON = 5  # seconds
READS = ["/users", "/users/1", "/users?email=ada@example.com", "/health"]


class Cluster:
    """A primary and two standbys, with the addresses and settings of the guide."""

    def __init__(self, servers: list[Postgres]) -> None:
        self.servers = servers
        self.primary, *self.standbys = servers
        self.primary.create()
        for standby, name in zip(self.standbys, ["one", "two"], strict=True):
            standby.copy(self.url("postgres"), f"cluster_name={name}")
        self.tell(ALL_STANDBYS)

    def url(self, database: str, form: str = URL) -> str:
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self.servers)
        assert "users:secret@zero,one,two/users" in form
        return form.replace("users:secret@zero,one,two/users", f"postgres@{hosts}/{database}")

    def read_url(self, database: str) -> str:
        return self.url(database, READ_URL)

    def tell(self, statements: str) -> None:
        """Change the settings of the primary."""
        sql(self.primary.url(), *statements.strip().removesuffix(";").split(";"))

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Let the standbys stay in the past."""
        self.tell(NO_STANDBY)
        for standby in self.standbys:
            sql(standby.url(), "SELECT pg_wal_replay_pause()")
        try:
            yield
        finally:
            for standby in self.standbys:
                sql(standby.url(), "SELECT pg_wal_replay_resume()")
            self.tell(ALL_STANDBYS)

    @contextmanager
    def without_primary(self) -> Iterator[None]:
        self.primary.stop()
        try:
            yield
        finally:
            self.primary.start()


@pytest.fixture(scope="module")
def cluster(postgres_directory: Path) -> Iterator[Cluster]:
    """Servers that the tests leave as they were."""
    servers = [Postgres(postgres_directory) for _ in range(3)]
    try:
        yield Cluster(servers)
    finally:
        for server in servers:
            with suppress(subprocess.SubprocessError):  # it has not come up
                server.stop("immediate")


@pytest.fixture
def doomed(make_postgres: Callable[[], Postgres]) -> Cluster:
    """Servers for a test that kills one."""
    return Cluster([make_postgres() for _ in range(3)])


@pytest.fixture
def doomed_service(
    start: StartService, doomed: Cluster, monkeypatch: pytest.MonkeyPatch
) -> Service:
    """A service over these servers, which has one user."""
    monkeypatch.setenv("DATABASE_READ_URL", doomed.read_url("postgres"))
    service = start(doomed.url("postgres"))
    with service.wait() as client:
        add(client, ADA)
    return service


@pytest.fixture
def database(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an empty database of the cluster, whose reads go to the standbys."""
    name = f"test{next(numbers)}"
    sql(cluster.primary.url(), f"CREATE DATABASE {name}")
    monkeypatch.setenv("DATABASE_READ_URL", cluster.read_url(name))
    return name


class Load:
    """Clients that read and write until they are told to stop, and what they were answered."""

    readers, writers = 4, 4

    def __init__(self, service: Service) -> None:
        self.service = service
        self.acknowledged: list[str] = []
        self.reads: Counter[int] = Counter()
        self.writes: Counter[int] = Counter()
        self.over = threading.Event()

    def __enter__(self) -> "Load":
        self.pool = ThreadPoolExecutor()
        self.clients = [self.pool.submit(self.read) for _ in range(self.readers)]
        self.clients += [self.pool.submit(self.write, number) for number in range(self.writers)]
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for client in self.clients:
            client.result()
        self.pool.shutdown()

    def read(self) -> None:
        with self.service.client() as client:
            for number in itertools.count():
                if self.over.is_set():
                    return
                answer = client.get(READS[number % len(READS)])
                self.reads[answer.status_code] += 1
                if answer.status_code != 200:
                    assert_unavailable(answer)

    def write(self, writer: int) -> None:
        with self.service.client() as client:
            for number in itertools.count():
                if self.over.is_set():
                    return
                email = f"{writer}-{number}@example.com"
                answer = client.post("/users", json={"name": "Writer", "email": email})
                self.writes[answer.status_code] += 1
                if answer.status_code == 201:
                    self.acknowledged.append(email)
                else:
                    assert_unavailable(answer)

    def go_on(self, answers: Counter[int], status: int, count: int = 50) -> None:
        """Return when so many more requests have got this answer."""
        target = answers[status] + count
        wait_until(
            lambda: answers[status] >= target,
            lambda: f"reads {self.reads}, writes {self.writes}\n{self.service.log.read_text()}",
        )


def stored(server: Postgres) -> set[str]:
    return {email for (email,) in sql(server.url(), "SELECT email FROM users")}


def test_the_users_are_read_from_the_standbys_and_all_else_goes_to_the_primary(
    start: StartService, cluster: Cluster, database: str
) -> None:
    with start(cluster.url(database)).wait() as client:
        address = add(client, ADA).headers["location"]

        with cluster.held_back():
            changed = client.patch(address, json={"name": "Ada King"})
            stale = client.patch(address, json={"name": "X"}, headers={"If-Match": '"1"'})
            taken = client.post("/users", json=ADA)
            assert [changed.status_code, stale.status_code] == [200, 412]
            assert [taken.status_code, taken.headers["location"]] == [409, address]
            past = [client.get(path) for path in READS[:3]]
            assert client.get("/health").status_code == 200

        for answer in past:
            assert "Ada Lovelace" in answer.text
        wait_until(lambda: "Ada King" in client.get(address).text, lambda: "not replayed")


def test_a_user_is_on_every_standby_before_the_answer_to_its_creation(
    start: StartService, cluster: Cluster, database: str
) -> None:
    service = start(cluster.url(database))
    service.wait().close()

    def write(writer: int) -> int:
        found = 0
        with service.client() as client:
            for number in range(125):
                user = {"name": "Writer", "email": f"{writer}-{number}@example.com"}
                created = add(client, user)
                read = client.get(created.headers["location"])
                found += read.status_code == 200 and read.json() == created.json()
        return found

    assert at_once([partial(write, writer) for writer in range(4)]) == [125] * 4


def test_when_the_primary_is_killed_reads_go_on_and_writes_wait_for_the_next_one(
    doomed: Cluster, doomed_service: Service
) -> None:
    one, two = doomed.standbys
    with Load(doomed_service) as load:
        load.go_on(load.writes, 201)
        doomed.primary.kill()
        load.go_on(load.reads, 200)
        load.go_on(load.writes, 503, 10)
        sql(one.url(), "SELECT pg_promote()")
        load.go_on(load.writes, 201)
        load.go_on(load.reads, 200)

    assert set(load.writes) == {201, 503}
    assert set(load.reads) <= {200, 503}
    assert load.reads[503] <= load.readers  # each had one in flight
    assert set(load.acknowledged) <= stored(one)
    wait_until(lambda: stored(two) == stored(one), lambda: "the other does not follow", 30)
    with doomed_service.client() as client:
        assert client.get("/health").json() == {"status": "ok"}


def test_when_a_standby_is_killed_reads_go_on_and_writes_until_it_is_taken_from_the_list(
    doomed: Cluster, doomed_service: Service
) -> None:
    one, two = doomed.standbys
    with Load(doomed_service) as load:
        load.go_on(load.writes, 201)
        load.go_on(load.reads, 200)
        one.kill()
        load.go_on(load.reads, 200, 200)
        doomed.tell(WITHOUT_THE_FIRST)
        load.go_on(load.writes, 201)
        load.go_on(load.reads, 200)

    assert set(load.writes) <= {201, 503}
    assert set(load.reads) <= {200, 503}
    assert load.reads[503] <= load.readers  # each had one in flight
    assert set(load.acknowledged) <= stored(doomed.primary) & stored(two)


def test_a_service_that_starts_without_the_primary_serves_the_reads(
    start: StartService, cluster: Cluster, database: str
) -> None:
    alembic(cluster.url(database), "upgrade", "head")
    sql(cluster.primary.url(database), "INSERT INTO users (name, email) VALUES ('A', 'a@b.org')")
    with cluster.without_primary():
        service = start(cluster.url(database))
        with service.wait() as client:
            assert client.get("/users/1").json() == {"id": 1, "name": "A", "email": "a@b.org"}
            assert client.get("/health").json() == {"status": "ok"}
            assert_unavailable(client.post("/users", json=ADA))

    with service.client() as client:
        assert until_served(lambda: client.post("/users", json=ADA)).status_code == 201


def test_a_standby_that_has_not_got_the_tables_yet_is_503_and_then_well(
    start: StartService, cluster: Cluster, database: str
) -> None:
    with cluster.held_back():
        service = start(cluster.url(database))
        with service.wait() as client:
            address = add(client, ADA).headers["location"]
            for path in ("/users", address, "/health"):
                assert_unavailable(client.get(path))
        assert "tables are missing: users" in service.log.read_text()

    with service.client() as client:
        assert until_served(lambda: client.get("/health")).status_code == 200
        assert client.get(address).status_code == 200


def test_a_read_that_a_standby_breaks_off_to_keep_up_is_503(
    start: StartService, cluster: Cluster, database: str
) -> None:
    for standby in cluster.standbys:
        sql(
            standby.url(),
            "ALTER SYSTEM SET max_standby_streaming_delay = 0",
            "SELECT pg_reload_conf()",
        )
    primary = cluster.primary.url(database)
    service = start(cluster.url(database))
    with service.wait() as client:
        add(client, ADA)
        # A table that is read for a while.
        sql(
            primary,
            "ALTER TABLE users RENAME TO people",
            "CREATE VIEW users AS SELECT * FROM people WHERE pg_sleep(3) IS NOT NULL",
        )

        with ThreadPoolExecutor() as pool:
            read = pool.submit(client.get, "/users/1")
            wait_until(lambda: any(map(sleeps, cluster.standbys)), lambda: "nothing is read")
            sql(primary, "ALTER TABLE people ADD COLUMN note text")

        assert_unavailable(read.result())
        logged(service.log, "canceling statement due to conflict with recovery")


def sleeps(server: Postgres) -> bool:
    watch = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    return bool(sql(server.url(), watch))


@pytest.mark.parametrize(
    ("url", "read_url", "reason"),
    [
        ("", "postgresql://localhost/users", "needs PostgreSQL, as DATABASE_URL too"),
        ("postgresql://localhost/users", "sqlite:///users.db", "needs PostgreSQL, as DATABASE_URL"),
        ("postgresql://localhost/users", "mysql://localhost/users", "must start with"),
        ("postgresql://localhost/users", "postgresql://u:p%@localhost/users", "cannot be read"),
    ],
)
def test_a_read_url_that_cannot_be_used_stops_the_start_with_the_reason(
    url: str, read_url: str, reason: str
) -> None:
    said = reason_not_to_start(DATABASE_URL=url, DATABASE_READ_URL=read_url)

    assert said.splitlines()[-1].startswith(f"ValueError: DATABASE_READ_URL {reason}")


def test_an_empty_read_url_is_none(
    start: StartService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_READ_URL", " ")
    with start(f"sqlite:///{tmp_path}/users.db").wait() as client:
        add(client, ADA)
        assert client.get("/users/1").status_code == 200


def test_a_standby_that_is_promoted_while_its_primary_lives_is_soon_read_no_more(
    start: StartService, doomed: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without load balancing, the first standby gets all the reads.
    read_url = doomed.read_url("postgres").removesuffix("&load_balance_hosts=random")
    monkeypatch.setenv("DATABASE_READ_URL", read_url)
    service = start(doomed.url("postgres"))
    with service.wait() as client:
        add(client, ADA)
        at_once([partial(client.get, "/users/1")] * 16)
        users = itertools.count()

        def missing(count: int = 8) -> int:
            """Add users at once, and say how many of them were not found then."""

            def find(_: int) -> bool:
                email = f"user{next(users)}@example.com"
                created = add(client, {"name": "User", "email": email})
                return client.get(created.headers["location"]).status_code == 200

            return at_once([partial(find, number) for number in range(count)]).count(False)

        assert missing() == 0
        doomed.tell(WITHOUT_THE_FIRST)
        sql(doomed.standbys[0].url(), "SELECT pg_promote()")

        wait_until(lambda: missing() == 0, lambda: "the promoted one is still read", SOON)
        assert [missing() for _ in range(12)] == [0] * 12


def test_a_service_that_starts_with_nothing_alive_serves_reads_as_soon_as_a_standby_comes(
    start: StartService, doomed: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    alembic(doomed.url("postgres"), "upgrade", "head")
    sql(doomed.primary.url(), "INSERT INTO users (name, email) VALUES ('A', 'a@b.org')")
    monkeypatch.setenv("DATABASE_READ_URL", doomed.read_url("postgres"))
    for server in doomed.servers:
        server.stop("immediate")
    with start(doomed.url("postgres")).wait() as client:
        for path in READS:
            assert_unavailable(client.get(path))

        doomed.standbys[0].start()

        for path in READS:
            assert until_served(partial(client.get, path), SOON).status_code == 200, path
        assert client.get("/users/1").json() == {"id": 1, "name": "A", "email": "a@b.org"}
        assert_unavailable(client.post("/users", json=ADA))

        doomed.primary.start()
        doomed.tell(NO_STANDBY)

        assert until_served(partial(client.post, "/users", json=ADA)).status_code == 201
