"""The same service under each server that runs it: it starts, answers, and ends when told to."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from helpers import ADA, JSON, add, wait_until
from postgres import free_port
from service import ROOT

pytestmark = pytest.mark.slow

COMMANDS = {
    "fastapi dev": "fastapi dev --port {port}",
    "fastapi run": "fastapi run --host 127.0.0.1 --port {port}",
    # The socket would be in the home directory of whoever runs the tests.
    "gunicorn": "gunicorn --no-control-socket -k uvicorn_worker.UvicornWorker"
    " --bind 127.0.0.1:{port} main:app",
    "granian": "granian --interface asgi --host 127.0.0.1 --port {port} main:app",
    "hypercorn": "hypercorn --bind 127.0.0.1:{port} main:app",
}


class Server:
    """A server with the service in it, and all the processes that it started."""

    def __init__(self, command: str, directory: Path) -> None:
        self.port = free_port()
        program, *arguments = command.format(port=self.port).split()
        self.log = directory / "log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [Path(sys.executable).with_name(program), *arguments],
                cwd=ROOT,
                env=os.environ | {"DATABASE_URL": f"sqlite:///{directory}/users.db"},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self) -> httpx.Client:
        """Return a client as soon as the service is well."""
        url = f"http://127.0.0.1:{self.port}"

        def healthy() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            with suppress(httpx.TransportError):
                # As in service.py: the certificates of authorities would be read at each look.
                return httpx.get(f"{url}/health", timeout=30, verify=False).status_code == 200
            return False

        wait_until(healthy, self.log.read_text, seconds=30)
        return httpx.Client(base_url=url, timeout=30)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[[str], Server]]:
    servers: list[Server] = []

    def start(command: str) -> Server:
        servers.append(Server(command, tmp_path))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_the_service_runs_under_every_server(run: Callable[[str], Server], command: str) -> None:
    server = run(command)

    with server.wait() as client:
        ada = add(client, ADA)
        listed = client.get("/users")
        pieces = iter([b" " * 40_000] * 2)  # of a body that does not say its length
        too_long = client.post("/users", content=pieces, headers=JSON)
        long_headers = client.get("/users", headers={"X-Long": "x" * 17 * 1024})
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(
                b"HEAD /users HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
            with connection.makefile("rb") as answer:
                head, _, body = answer.read().partition(b"\r\n\r\n")
    server.process.terminate()
    server.process.wait(15)

    assert ada.headers["location"] == "/users/1"
    assert listed.json() == [ada.json()]
    assert too_long.status_code == 413
    assert long_headers.status_code == 431
    assert head.startswith(b"HTTP/1.1 200")
    assert body == b""
    assert "API_TOKEN is not set" in (log := server.log.read_text())
    assert "Traceback" not in log, log
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{server.port}/health", timeout=30)
