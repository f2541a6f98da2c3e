"""What every test stands on: a real uvicorn process over a real database, spoken to over HTTP."""

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import sqlalchemy

from postgres import Postgres, accepts, site_packages

pytest.register_assert_rewrite("helpers")
ROOT = Path(__file__).parent.parent
database_numbers = itertools.count(1)


def pytest_report_header() -> list[str]:
    return [
        "four minutes on two cores with -n 4; with -m 'not slow', less than half a minute",
        "needs tests/requirements.txt; some tests need Chromium, nginx or PgBouncer",
    ]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the slow tests: of several workers, none should get a long one at the end."""
    if hasattr(config, "workerinput"):  # this is one of pytest-xdist's workers
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


class Service:
    """A uvicorn process, started as a user starts it, on a port that the system picks."""

    def __init__(
        self, database_url: str, log: Path, *options: str, cwd: Path = ROOT, app: str = "main:app"
    ) -> None:
        self.log = log
        environment = os.environ | {"DATABASE_URL": database_url, "PYTHONUNBUFFERED": "1"}
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", app, "--port", "0", *options],
                cwd=cwd,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that kill() reaches the processes of --reload, too
            )

    def wait(self, seconds: float = 30) -> httpx.Client:
        """Return a client of the service as soon as it accepts a connection."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            log = self.log.read_text()
            found = re.search(r"running on (http://\S+:(\d+))", log)
            # A process that serves says that it has started just before it listens.
            if found and "Application startup complete" in log and accepts(int(found[2])):
                self.url = found[1]
                return self.client()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)
        raise AssertionError(f"not up after {seconds} s:\n{self.log.read_text()}")

    def client(self, **options: Any) -> httpx.Client:
        # To read the certificates of the internet's authorities would take 0.08 s each time.
        return httpx.Client(base_url=self.url, timeout=30, verify=False, **options)

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Send the signal and return the exit code."""
        self.process.send_signal(signal_number)
        return self.process.wait(30)

    def kill(self) -> None:
        """End the process and all that it started, at once."""
        with suppress(ProcessLookupError):  # the test has stopped it
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


StartService = Callable[..., Service]


@pytest.fixture(scope="session")
def _start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartService]:
    started: list[Service] = []

    def start(database_url: str, *options: str, **where: Any) -> Service:
        log = tmp_path_factory.mktemp("service") / "log"
        started.append(Service(database_url, log, *options, **where))
        return started[-1]

    yield start
    for service in started:
        service.kill()


@pytest.fixture
def start(_start: StartService) -> Iterator[StartService]:
    """Start services that the test may break or stop; none of them may print a traceback."""
    mine: list[Service] = []

    def remember(database_url: str, *options: str, **where: Any) -> Service:
        mine.append(_start(database_url, *options, **where))
        return mine[-1]

    yield remember
    for service in mine:
        service.kill()
    for service in mine:
        assert "Traceback" not in service.log.read_text(), service.log.read_text()


@pytest.fixture(scope="session")
def postgres_directory() -> Iterator[Path]:
    """A directory that everybody may enter, which those of pytest are not."""
    try:
        site_packages()
    except PackageNotFoundError:
        if os.environ.get("CI"):
            raise
        pytest.skip("needs the PostgreSQL of tests/requirements.txt")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture(scope="session")
def shared_postgres(postgres_directory: Path) -> Iterator[Postgres]:
    server = Postgres(postgres_directory)
    server.create()
    yield server
    server.stop()


@pytest.fixture
def make_postgres(postgres_directory: Path) -> Iterator[Callable[[], Postgres]]:
    """Prepare servers of its own for a test that stops them."""
    servers: list[Postgres] = []

    def make() -> Postgres:
        servers.append(Postgres(postgres_directory))
        return servers[-1]

    yield make
    for server in servers:
        with suppress(subprocess.CalledProcessError):  # the test has stopped it
            server.stop("immediate")


@pytest.fixture
def postgres(make_postgres: Callable[[], Postgres]) -> Postgres:
    """A running server of its own, for a test that stops it."""
    server = make_postgres()
    server.create()
    return server


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def create_database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], str]:
    """Make an empty database and return its URL. What needs it runs on both databases."""
    if request.param == "sqlite":
        directory = tmp_path_factory.mktemp("sqlite")
        return lambda: f"sqlite:///{directory}/{next(database_numbers)}.db"
    server: Postgres = request.getfixturevalue("shared_postgres")

    def create() -> str:
        name = f"test{next(database_numbers)}"
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return server.url(name)

    return create


@pytest.fixture(scope="session")
def shared_url(create_database: Callable[[], str]) -> str:
    """The database of the service that most tests share."""
    return create_database()


@pytest.fixture(scope="session")
def shared_service(_start: StartService, shared_url: str) -> Iterator[Service]:
    service = _start(shared_url)
    service.wait().close()
    yield service
    service.kill()


@pytest.fixture
def database(shared_url: str, shared_service: Service) -> Iterator[sqlalchemy.Engine]:
    """Another program's way into the database of the shared service."""
    engine = sqlalchemy.create_engine(shared_url)
    yield engine
    engine.dispose()


@pytest.fixture
def client(shared_service: Service, database: sqlalchemy.Engine) -> Iterator[httpx.Client]:
    """A client of the shared service, which has no users and prints no traceback."""
    with database.begin() as connection:
        connection.execute(sqlalchemy.text("DELETE FROM users"))
    seen = len(shared_service.log.read_text())
    with shared_service.client() as client:
        yield client
    assert "Traceback" not in (log := shared_service.log.read_text()[seen:]), log


@pytest.fixture
def new_database(create_database: Callable[[], str]) -> str:
    """The URL of a database in which there is nothing yet."""
    return create_database()


@pytest.fixture
def new_engine(new_database: str) -> Iterator[sqlalchemy.Engine]:
    """Another program's way into that database."""
    engine = sqlalchemy.create_engine(new_database)
    yield engine
    engine.dispose()


@pytest.fixture
def python(new_database: str) -> Callable[[str], str]:
    """Run some lines of Python beside the service's files, over an empty database."""

    def run(code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            cwd=ROOT,
            env=os.environ | {"DATABASE_URL": new_database},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def copy_project(directory: Path) -> Path:
    """Copy the project to this directory, as a fresh clone would be, and return it."""
    ignore = shutil.ignore_patterns(".*", "__pycache__", "users.db*")
    return shutil.copytree(ROOT, directory, ignore=ignore, dirs_exist_ok=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project for a test that changes it."""
    return copy_project(tmp_path)


@pytest.fixture
def page() -> Iterator[Any]:
    """An empty page in a real browser, a Page of Playwright's."""
    # Not at the top: most tests can do without Playwright.
    from browser import open_page  # noqa: PLC0415

    with open_page() as page:
        yield page
