"""A new version takes over behind docs/nginx.conf, and no request fails."""

import itertools
import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers import ADA, add, alembic, append, columns, logged, sql
from nginx import NGINX, Proxy
from service import ROOT, Service, StartService

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (NGINX and shutil.which("openssl")) and not os.environ.get("CI"),
        reason="needs nginx and openssl: apt-get install nginx openssl",
    ),
]

OPTIONS = ["--root-path", "/api", "--workers", "2", "--timeout-graceful-shutdown", "10"]
CLIENTS = 8


class Release:
    """Two services behind nginx, and clients that keep their connections to it."""

    def __init__(self, start: StartService, url: str, directory: Path) -> None:
        self.start, self.url = start, url
        self.services = [start(url, *OPTIONS) for _ in range(2)]
        for service in self.services:
            service.wait().close()
        self.proxy = Proxy(directory, {"rate=50r/s": "rate=5000r/s"}, *self.services)
        self.acknowledged: list[str] = []
        self.reads: Counter[int] = Counter()
        self.writes: Counter[int] = Counter()

    @contextmanager
    def under_load(self) -> Iterator[None]:
        over = threading.Event()

        def work(number: int) -> None:
            with self.proxy.client() as client:
                for count in itertools.count():
                    if over.is_set():
                        return
                    read = client.get(["/users?limit=5", "/users/1", "/health"][count % 3])
                    self.reads[read.status_code] += 1
                    email = f"{number}-{count}@example.com"
                    written = client.post("/users", json={"name": "Client", "email": email})
                    self.writes[written.status_code] += 1
                    if written.status_code == 201:
                        self.acknowledged.append(email)
                    else:
                        assert written.headers["retry-after"], written.text
                    time.sleep(0.05)  # the services that start need the processor, too

        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(work, number) for number in range(CLIENTS)]
            try:
                yield
            finally:
                over.set()
            for client in clients:
                client.result()  # a connection that was reset is raised here

    def replace(self, old: Service, cwd: Path = ROOT) -> None:
        """Do the guide's steps for one of the services."""
        assert old.stop() == 0
        _, _, port = old.url.rpartition(":")
        new = self.start(self.url, *OPTIONS, "--port", port, cwd=cwd)
        new.wait().close()
        logged(new.log, "201 Created")  # nginx has found it again

    def assert_nothing_failed(self) -> None:
        assert set(self.reads) == {200}
        assert set(self.writes) <= {201, 503}
        assert self.writes[503] <= CLIENTS * len(self.services)  # each had one in flight
        stored = {email for (email,) in sql(self.url, "SELECT email FROM users")}
        assert set(self.acknowledged) <= stored


@pytest.fixture
def release(start: StartService, new_database: str, postgres_directory: Path) -> Iterator[Release]:
    directory = Path(tempfile.mkdtemp(dir=postgres_directory))
    directory.chmod(0o755)
    release = Release(start, new_database, directory)
    try:
        release.proxy.wait()
        with release.proxy.client() as client:
            add(client, ADA)
        yield release
    finally:
        release.proxy.stop()


@pytest.mark.parametrize("create_database", ["sqlite"], indirect=True)
def test_two_services_are_restarted_in_turn_and_no_request_fails(release: Release) -> None:
    with release.under_load():
        for service in release.services:
            release.replace(service)

    release.assert_nothing_failed()


@pytest.mark.parametrize("create_database", ["postgresql"], indirect=True)
def test_a_version_with_another_column_takes_over_and_no_request_fails(
    release: Release, project: Path
) -> None:
    append(project / "models.py", "    nick: Mapped[str] = mapped_column(server_default='')\n")
    draft = ["revision", "--autogenerate", "-m", "A nick"]
    alembic(release.url, *draft, cwd=project)

    with release.under_load():
        alembic(release.url, "upgrade", "head", cwd=project)
        for service in release.services:
            release.replace(service, cwd=project)

    release.assert_nothing_failed()
    assert "nick" in columns(release.url, "users")
