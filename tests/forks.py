"""Python programs that start in a sixth of the time.

FastAPI, SQLAlchemy and Alembic take a second of the processor to import, and the tests start four
hundred services and commands. So one process imports them once, and is forked for each of these.
"""

import gc
import os
import runpy
import subprocess
import sys
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Self

TESTS = Path(__file__).parent
LIBRARIES = [
    "alembic.command",
    "alembic.config",
    "email_validator",
    "fastapi_offline",
    "pydantic.v1",
    "pytest",  # the program that runs the tests, which multiprocessing imports in each fork
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite",
    "sqlalchemy.orm",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "uvicorn.main",
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.websockets.auto",
]

Process: type[BaseProcess] = get_context("spawn").Process
if "forkserver" in get_all_start_methods():  # not on Windows
    forkserver = get_context("forkserver")
    forkserver.set_forkserver_preload(LIBRARIES)
    Process = forkserver.Process


def become(arguments: list[str], cwd: Path, environment: dict[str, str], output: Path) -> None:
    """Turn this process into what `python -m` makes of these arguments."""
    gc.freeze()  # else the first collection would write to, and so copy, what was imported
    if hasattr(os, "setsid"):  # not on Windows
        os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    ours = str(TESTS), str(TESTS.parent)
    sys.path[:] = [str(cwd), *(path for path in sys.path if path not in ours)]
    sys.argv[1:] = arguments[1:]
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


class Fork:
    """What `subprocess.Popen(["python", "-m", *arguments])` is, as far as the tests need it.

    At the end of a `with` it is killed, if it has not ended by then.
    """

    def __init__(
        self, arguments: list[str], cwd: Path, environment: dict[str, str], output: Path
    ) -> None:
        output.touch()
        # A daemon: else the tests would wait at their end for one that nobody has ended.
        self.process = Process(
            target=become, args=(arguments, cwd, environment, output), daemon=True
        )
        self.process.start()
        self.pid = self.process.pid or 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.wait()

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("a fork", timeout or 0)
        return code

    def kill(self) -> None:
        self.process.kill()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)
