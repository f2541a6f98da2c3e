"""What more than one module of tests needs."""

import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Barrier
from typing import Any, TypeVar

import httpx
import sqlalchemy

from forks import Fork
from service import ROOT, Service

T = TypeVar("T")

ADA = {"name": "Ada Lovelace", "email": "ada@example.com"}
GRACE = {"name": "Grace Hopper", "email": "grace@example.com"}
MIB = 1024 * 1024
JSON = {"Content-Type": "application/json"}
TOKEN = "correct-horse-battery-staple"
BODY = json.dumps(ADA).encode()
BODY_SENT = len(BODY) // 2  # by half_a_post

PASSWORD = "write %40 for @, %2F for / and %25 for % in its password"
# What DATABASE_URL may be set to, and what the service says: the last line of a start that fails.
REFUSED_URLS = {
    '"sqlite:///users.db"': "must not be in quotes",
    "'postgresql://localhost/users'": "must not be in quotes",
    "users.db": "must start with sqlite:/// or postgresql://",
    "mysql://root:secret@localhost/users": "must start with sqlite:/// or postgresql://",
    "host=localhost password=secret": "must start with sqlite:/// or postgresql://",
    "postgresql+asyncpg://u:secret@localhost/users": "postgresql://, without +asyncpg",
    "postgresql+psycopg2://u:secret@localhost/users": "postgresql://, without +psycopg2",
    "sqlite+aiosqlite:///users.db": "sqlite://, without +aiosqlite",
    "sqlite://": "must have the path of a file: sqlite:///path/to/file.db",
    "sqlite:///:memory:": "must have the path of a file: sqlite:///path/to/file.db",
    "sqlite:////data/": "must have the path of a file: sqlite:///path/to/file.db",
    "sqlite:///users.db?mode=ro": "must have the path of a file: sqlite:///path/to/file.db",
    "sqlite:////no/such/directory/users.db": "a directory that is not there: /no/such/directory",
    "postgresql://u:sec@ret@localhost/users": PASSWORD,
    "postgresql://u:sec/ret@localhost/users": PASSWORD,
    "postgresql://u:sec%ret@localhost/users": PASSWORD,
    "postgresql://localhost/users?sslmod=require": "a parameter that libpq does not know",
}

# What another program says to keep others from writing, or from making the tables.
HOLD_THE_TABLE = {"sqlite": "BEGIN EXCLUSIVE", "postgresql": "LOCK TABLE users IN EXCLUSIVE MODE"}
HOLD_THE_SCHEMA = {
    "sqlite": "BEGIN IMMEDIATE",
    "postgresql": "SELECT pg_advisory_xact_lock(7236589)",
}

# Tables that somebody adds.
IDS = {"sqlite": "INTEGER PRIMARY KEY", "postgresql": "SERIAL PRIMARY KEY"}
VISITS = """CREATE TABLE visits (
    id {id}, page VARCHAR(300) NOT NULL, version BIGINT DEFAULT 1 NOT NULL)"""


def add(client: httpx.Client, user: Mapping[str, Any]) -> httpx.Response:
    answer = client.post("/users", json=user)
    assert answer.status_code == 201, answer.text
    return answer


def add_many(database: sqlalchemy.Engine, count: int, name: str = "User") -> None:
    """Load users the way an operator would, with plain SQL."""
    with database.begin() as connection:
        connection.execute(
            sqlalchemy.text("INSERT INTO users (name, email) VALUES (:name, :email)"),
            [{"name": name, "email": f"user{n}@example.com"} for n in range(count)],
        )


def refused(answer: httpx.Response) -> Any:
    """Assert a 4xx with a JSON body that every client can read, and return it."""
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/json"

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    body = json.loads(answer.content.decode(), parse_constant=no_constant)
    assert set(body) == {"detail"}
    return body


def assert_unavailable(answer: httpx.Response) -> None:
    """Assert that the answer is the one to an outage."""
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) > 0
    assert answer.json() == {"detail": "The database does not answer"}


def wait_until(look: Callable[[], T | None], failure: Callable[[], str], seconds: float = 15) -> T:
    """Look again until there is something to see, and return it."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, failure()
        time.sleep(0.05)
    return seen


def until_served(ask: Callable[[], httpx.Response], seconds: float = 15) -> httpx.Response:
    """Ask again until the answer is something else than 503."""

    def served() -> httpx.Response | None:
        answer = ask()
        return None if answer.status_code == 503 else answer

    return wait_until(served, lambda: f"503 for {seconds} s", seconds)


def at_once(actions: Sequence[Callable[[], T]]) -> list[T]:
    """Start all the actions in the same instant and return what they returned."""
    barrier = Barrier(len(actions))

    def act(action: Callable[[], T]) -> T:
        barrier.wait()
        return action()

    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(act, actions))


def connect(client: httpx.Client) -> socket.socket:
    """Open a connection of its own, for what no HTTP client would send."""
    return socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=15)


def half_a_post(client: httpx.Client) -> socket.socket:
    """Send a POST of ADA but for the end of its body, which is `BODY[BODY_SENT:]`."""
    connection = connect(client)
    connection.sendall(
        b"POST /users HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY[:BODY_SENT])
    )
    return connection


@contextmanager
def slow_readers(service: Service, address: str, count: int) -> Iterator[None]:
    """Let clients ask again and again, and never read an answer. Ends with the service."""
    request = f"GET {address} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with ExitStack() as stack, service.client() as client:
        for _ in range(count):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((client.base_url.host, client.base_url.port or 0))
            connection.sendall(request * 50)
        yield
        # Before the sockets close: uvicorn would print a traceback for each request that still
        # waits in a connection that is gone.
        service.kill()


def memory(service: Service) -> int:
    """Return the most memory that the process ever held, in bytes."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


def logged(log: Path, text: str, since: int = 0, times: int = 1) -> str:
    """Wait until the log has the text, which may come after the answer, and return the log."""
    wait_until(
        lambda: log.read_text()[since:].count(text) >= times,
        lambda: f"not in the log: {text}\n{log.read_text()[since:]}",
    )
    return log.read_text()[since:]


def sql(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements as another program would, and return the rows of the last one."""
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    rows: list[tuple[Any, ...]] = []
    with engine.connect() as connection:
        for statement in statements:
            result = connection.exec_driver_sql(statement)
            rows = [tuple(row) for row in result] if result.returns_rows else []
    engine.dispose()
    return rows


def make_tables(url: str, *statements: str) -> None:
    """Run statements in which `{id}` stands for the type of a column that counts ids up."""
    sql(url, *(statement.format(id=IDS[url.partition(":")[0]]) for statement in statements))


def break_connections(url: str) -> int:
    """Do in a moment what a restart of PostgreSQL does to the connections of its clients.

    Returns how many there were.
    """
    return len(
        sql(
            url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE client_port IS NOT NULL AND pid <> pg_backend_pid()",
        )
    )


def columns(url: str, table: str) -> list[str]:
    """Return the names of a table's columns, as the database has them; none without a table."""
    engine = sqlalchemy.create_engine(url)
    inspector = sqlalchemy.inspect(engine)
    names = [c["name"] for c in inspector.get_columns(table)] if inspector.has_table(table) else []
    engine.dispose()
    return names


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1, (file, old)
    file.write_text(text.replace(old, new))


def append(file: Path, text: str) -> None:
    file.write_text(file.read_text() + text)


def run_module(*arguments: str, cwd: Path, **environment: str) -> tuple[int, str]:
    """Run a Python module to its end, and return its exit code and what it said."""
    with (
        NamedTemporaryFile() as output,
        Fork([*arguments], cwd, os.environ | environment, Path(output.name)) as process,
    ):
        return process.wait(60), output.read().decode()


def alembic(url: str, *arguments: str, cwd: Path = ROOT) -> str:
    code, said = run_module("alembic", *arguments, cwd=cwd, DATABASE_URL=url)
    assert code == 0, said
    return said


def reason_not_to_start(cwd: Path = ROOT, **environment: str) -> str:
    """Start a service that must not come up, and return what it says."""
    code, said = run_module("uvicorn", "main:app", "--port", "0", cwd=cwd, **environment)
    assert code != 0, said
    return said
