"""The README, taken at its word: its commands are run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

from conftest import ROOT, StartService
from postgres import Postgres
from test_users import ADA, GRACE, add

PYTHON = Path(sys.executable).parent


def commands(heading: str) -> list[str]:
    """Return the shell blocks below a heading of the README."""
    section = re.search(
        rf"^#+ {heading}\n(.*?)(?=^#+ |\Z)", (ROOT / "README.md").read_text(), re.M | re.S
    )
    assert section, heading
    return re.findall(r"^```sh\n(.*?)^```", section[1], re.M | re.S)


def run(block: str, directory: Path, programs: Path = PYTHON, **environment: str) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=directory,
        env=os.environ | {"PATH": f"{PYTHON}:{programs}:{os.environ['PATH']}"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}"


def test_a_sqlite_backup_made_while_the_service_runs_brings_everything_back(
    start: StartService, project: Path
) -> None:
    backup, restore, _, _ = commands("Backup and restore")
    service = start("", cwd=project)
    with service.wait() as client:
        ada = add(client, ADA)
        run(backup, project)
        client.delete(ada.headers["location"])
        add(client, GRACE)
    service.process.kill()
    service.process.wait()
    assert (project / "users.db-wal").exists()
    run(restore, project)
    with start("", cwd=project).wait() as client:
        assert client.get("/users").json() == [ada.json()]
        assert add(client, GRACE).json()["id"] > ada.json()["id"]


def test_a_postgresql_backup_is_restored_while_the_service_runs(
    start: StartService, postgres: Postgres, tmp_path: Path
) -> None:
    _, _, backup, restore = commands("Backup and restore")
    with start(postgres.url()).wait() as client:
        ada = add(client, ADA)
        run(backup, tmp_path, postgres.programs, DATABASE_URL=postgres.url())
        client.delete(ada.headers["location"])
        add(client, GRACE)
        run(restore, tmp_path, postgres.programs, DATABASE_URL=postgres.url())
        assert client.get("/users").json() == [ada.json()]
        assert client.get(ada.headers["location"]).headers["etag"] == ada.headers["etag"]
        assert add(client, GRACE).json()["id"] > ada.json()["id"]
