"""The blocks of code in the documents, and how their commands are run."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from helpers import wait_until
from postgres import accepts, free_port
from service import ROOT

README, FRENCH, LESSONS = "README.md", "README.fr.md", "docs/lessons.md"
OPERATIONS, RECIPE = "docs/operations.md", "docs/another-resource.md"
BACKUPS, HOSTS = "docs/backups.md", "docs/several-hosts.md"
FIGURES = "benchmarks/README.md"
LONGEST = 300  # seconds that a block of commands may take
TEXT = {
    str(file.relative_to(ROOT)): file.read_text()
    for file in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / FIGURES]
}


def blocks(text: str, language: str = "sh") -> list[str]:
    """Return the blocks of code in this language; a name may follow the language."""
    return re.findall(rf"^```{language}\b[^\n]*\n(.*?)^```", text, re.M | re.S)


def block(document: str, name: str) -> str:
    """Return the block with this name, which stands behind the language and is not shown."""
    (found,) = re.findall(rf"^```\w+ {name}\n(.*?)^```", TEXT[document], re.M | re.S)
    return str(found)


def sections(document: str) -> dict[str, str]:
    """Return the text below each heading, up to the next."""
    _, *parts = re.split(r"^#+ (.*)\n", TEXT[document], flags=re.M)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def commands(document: str, heading: str) -> list[str]:
    return blocks(sections(document)[heading])


def command(document: str, heading: str) -> str:
    """Return the only block of commands below this heading."""
    (found,) = commands(document, heading)
    return found


def environment(**more: str) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return os.environ | {"PATH": path, "DATABASE_URL": "", "PYTHONUNBUFFERED": "1"} | more


def run(block: str, directory: Path, *, status: int = 0, **more: str) -> str:
    with subprocess.Popen(
        ["sh", "-ec", block],
        cwd=directory,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as shell:
        try:
            printed, complaints = shell.communicate(timeout=LONGEST)
        except BaseException:
            os.killpg(shell.pid, signal.SIGKILL)  # with all that it has started
            raise
    assert shell.returncode == status, f"{block}\n{printed}{complaints}"
    return printed


@contextmanager
def running(block: str, directory: Path, **more: str) -> Iterator[tuple[httpx.Client, list[str]]]:
    """Run a block that ends with a server; give a client of it and the lines that it prints."""
    port, log = free_port(), list[str]()
    with (
        httpx.Client(base_url=f"http://localhost:{port}", timeout=30) as client,
        subprocess.Popen(
            ["sh", "-ec", block.replace("--port 8000", "")],
            cwd=directory,
            env=environment(UVICORN_PORT=str(port), **more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as shell,
    ):

        def read() -> None:
            for line in shell.stdout or []:
                log.append(line)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            assert_printed("Uvicorn running on", log, seconds=LONGEST)
            assert_printed("Application startup complete", log, seconds=60)
            wait_until(lambda: accepts(port), lambda: "".join(log))
            yield client, log
        finally:
            os.killpg(shell.pid, signal.SIGINT)  # as Ctrl+C does
            reader.join(30)  # until the last process that can still print has ended
            orphans = reader.is_alive()
            if orphans:
                os.killpg(shell.pid, signal.SIGKILL)
                reader.join()
        assert not orphans, "".join(log)


def assert_printed(block: str, log: list[str], seconds: float = 15) -> None:
    """Wait until lines that contain those of the block were printed one after the other.

    Where the block says `...`, there may be others between them.
    """
    pattern = "".join(
        r"(.*\n)*?" if line == "..." else rf".*{re.escape(line)}.*\n" for line in block.splitlines()
    )

    def printed() -> bool:
        return re.search(pattern, "".join(log[:])) is not None

    wait_until(printed, lambda: f"{block}\n{''.join(log)}", seconds)
