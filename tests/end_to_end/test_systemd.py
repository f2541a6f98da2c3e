"""docs/users.service: systemd has nothing to say against it, and its command runs the service."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ADA, add
from service import ROOT, StartService

pytestmark = pytest.mark.slow

UNIT = (ROOT / "docs/users.service").read_text()


def test_systemd_has_nothing_to_say_against_the_unit(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze") and not os.environ.get("CI"):
        pytest.skip("needs systemd-analyze: apt-get install systemd")
    program = "/opt/users/.venv/bin/uvicorn"
    assert UNIT.count(program) == 1
    unit = tmp_path / "users@8000.service"
    unit.write_text(UNIT.replace(program, sys.executable))

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.stdout == ""
    assert done.returncode == 0


def test_the_command_of_the_unit_runs_the_service_behind_the_proxy_and_ends_it(
    start: StartService, tmp_path: Path
) -> None:
    proxy = (ROOT / "docs/nginx.conf").read_text()
    found = re.search(r"^ExecStart=\S+/uvicorn main:app (.*)$", UNIT.replace("\\\n", ""), re.M)
    assert found
    address = "--host 127.0.0.1 --port %i"
    assert address in found[1]
    assert "server 127.0.0.1:8000 " in proxy

    service = start(f"sqlite:///{tmp_path}/users.db", *found[1].replace(address, "").split())
    with service.wait() as client:
        location = add(client, ADA).headers["location"]

    assert location == "/api/users/1"
    assert "location /api/ {" in proxy
    assert service.stop() == 0
