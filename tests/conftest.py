"""What the tests share: real services over real databases, each made once where that is enough.

The folders are the floors of a pyramid, from the fastest to what is nearest to a real installation:

- `unit/`: one function, called directly. Only what has too many cases for HTTP.
- `api/`: what a caller sees, over HTTP, of a service that most of the tests share.
- `operation/`: services and databases that the test starts, stops, breaks and upgrades.
- `end_to_end/`: with the programs around a service, such as a browser, nginx and PgBouncer.

Beside them: `lessons/` for the eight lessons, `second_day/` and `second_week/` for what somebody
adds to the service, and `documents/`, which runs the commands of the documents.
"""

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import sqlalchemy

from postgres import Postgres, site_packages
from service import ROOT, Service, StartService

pytest.register_assert_rewrite("helpers", "browser", "commands", "nginx")
database_numbers = itertools.count(1)
for setting in ("API_TOKEN", "DATABASE_READ_URL", "DATABASE_CONNECTIONS"):
    os.environ.setdefault(setting, "")  # which goes before a file .env that is there


def pytest_report_header() -> list[str]:
    return [
        "five minutes on two cores with -n 4; half a minute with -n 2 -m 'not slow'",
        "needs tests/requirements.txt; some tests need Chromium, nginx or PgBouncer",
    ]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the slow tests: of several workers, none should get a long one at the end."""

    def order(item: pytest.Item) -> tuple[bool, bool]:
        # The documents' tests are the longest.
        return item.get_closest_marker("slow") is None, "documents" not in item.path.parts

    if hasattr(config, "workerinput"):  # this is one of pytest-xdist's workers
        items.sort(key=order)


@pytest.fixture(scope="session")
def _start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartService]:
    started: list[Service] = []

    def start(database_url: str | None, *options: str, **where: Any) -> Service:
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

    def remember(database_url: str | None, *options: str, **where: Any) -> Service:
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
    try:
        server.create()
        yield server
    finally:
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
        with suppress(subprocess.SubprocessError):  # the test has stopped it
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
def project(tmp_path: Path) -> Path:
    """A copy of the project, as a fresh clone would be, for a test that changes it."""
    ignore = shutil.ignore_patterns(".*", "__pycache__", "users.db*")
    return shutil.copytree(ROOT, tmp_path, ignore=ignore, dirs_exist_ok=True)


@pytest.fixture
def page() -> Iterator[Any]:
    """An empty page in a real browser, a Page of Playwright's."""
    # Not at the top: most tests can do without Playwright.
    from browser import open_page  # noqa: PLC0415

    with open_page() as page:
        yield page
