"""The service: a uvicorn process, spoken to over HTTP.

Most are forks (see forks.py). The tests of the documents start it as a user does.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from forks import Fork
from postgres import accepts

ROOT = Path(__file__).parent.parent


class Service:
    """A uvicorn process, on a port that the system picks."""

    def __init__(
        self,
        database_url: str | None,  # None: neither this is set nor what the environment has
        log: Path,
        *options: str,
        cwd: Path = ROOT,
        app: str = "main:app",
    ) -> None:
        self.log = log
        environment = os.environ | {"DATABASE_URL": database_url or "", "PYTHONUNBUFFERED": "1"}
        if database_url is None:
            del environment["DATABASE_URL"]
        arguments = ["uvicorn", app, "--port", "0", *options]
        self.process: Fork | subprocess.Popen[bytes]
        if not any(option.startswith(("--reload", "--workers")) for option in options):
            self.process = Fork(arguments, cwd, environment, log)
            return
        # As a user starts it, since uvicorn starts further processes for these options.
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=cwd,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that kill() reaches those, too
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
        self.process.kill()
        if hasattr(os, "killpg"):  # not on Windows
            with suppress(ProcessLookupError):  # the test has stopped it
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


StartService = Callable[..., Service]
