"""What stands beside the code: the lock, .env.example, the Dockerfile and CI do what they say."""

import fnmatch
import json
import os
import re
import shlex
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from commands import OPERATIONS, README, command, run, running, sections
from service import ROOT

CONSTRAINTS = ROOT / "constraints.txt"
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def uv(command: str, directory: Path) -> str:
    return run(f"{Path(sys.executable).parent}/{command}", directory)


def test_the_lock_has_what_the_project_asks_for(project: Path) -> None:
    uv("uv lock --check --offline", project)


def test_pip_gets_the_versions_of_the_lock(project: Path) -> None:
    before = CONSTRAINTS.read_text()
    (command,) = re.findall(r"^# +(uv export .*)$", before, re.M)

    uv(f"{command} --frozen --offline --quiet", project)

    written = (project / CONSTRAINTS.name).read_text()
    assert written.splitlines()[2:] == before.splitlines()[2:]


def test_pip_and_uv_are_asked_for_the_same() -> None:
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = {
        "requirements.txt": asked["project"]["dependencies"],
        "tests/requirements.txt": asked["dependency-groups"]["test"],
    }

    for file, ranges in groups.items():
        lines = (ROOT / file).read_text().splitlines()
        assert [line for line in lines if line and line[0] not in "#-"] == ranges
        assert all(">=" in each and "<" in each for each in ranges)


def test_these_tests_run_with_the_versions_of_the_lock() -> None:
    pinned = re.findall(r"^([\w.-]+)==([\w.]+)$", CONSTRAINTS.read_text(), re.M)

    assert len(pinned) > 50
    assert {name: version(name) for name, _ in pinned} == dict(pinned)


@pytest.mark.slow
def test_env_example_closes_the_service_with_its_token(project: Path) -> None:
    (project / ".venv").symlink_to(sys.prefix)
    (project / ".env.example").write_text((ROOT / ".env.example").read_text())
    start = command(README, "With a token")
    (curl,) = re.findall(r"`(curl [^`]+)`", sections(README)["With a token"])

    with running(start, project) as (client, _):
        assert client.get("/health").status_code == 200
        assert client.get("/users").status_code == 401
        curl = curl.replace("8000", str(client.base_url.port))
        assert run(curl, project) == "[]"


def test_the_way_to_make_a_token_makes_one_that_is_taken(project: Path) -> None:
    (project / ".venv").symlink_to(sys.prefix)
    (make,) = re.findall(r"^# +(.*secrets.*)$", (ROOT / ".env.example").read_text(), re.M)

    tokens = [run(make, project).strip() for _ in range(2)]

    assert tokens[0] != tokens[1]
    for token in tokens:
        assert re.fullmatch(r"[\w-]{40,}", token)


def test_what_must_stay_here_is_ignored_by_git_and_docker() -> None:
    git = (ROOT / ".gitignore").read_text().splitlines()
    docker = (ROOT / ".dockerignore").read_text().splitlines()

    for file in (".env", "users.db", "users.db-wal", "backup.db", "backup.dump"):
        for ignored in (git, docker):
            assert any(fnmatch.fnmatch(file, pattern) for pattern in ignored), file


# There is no docker in the tests: what can be checked is that the Dockerfile does what the guide
# says, whose commands are run by test_readme.py.
def test_the_dockerfile_starts_and_checks_the_service_as_the_guide_says() -> None:
    guide = " ".join(sections(OPERATIONS)["Container"].split())
    check, start = (json.loads(words) for words in re.findall(r"CMD (\[.*\])$", DOCKERFILE, re.M))

    assert f"**Command:** `{shlex.join(start)}`" in guide
    assert shlex.split(command(OPERATIONS, "Container"))[1:] == check[1:]
    assert re.findall(r"^RUN (pip install).* (-r .*)$", DOCKERFILE, re.M) == [
        ("pip install", "-r requirements.txt")
    ]
    assert "ENV DATABASE_URL=sqlite:////data/users.db" in DOCKERFILE
    assert "DATABASE_URL=sqlite:////data/users.db" in guide
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {"tests", "benchmarks"} <= set(ignored)


@pytest.mark.slow
def test_the_service_starts_with_the_files_of_the_image_alone(project: Path) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for file in list(project.iterdir()):
        if any(fnmatch.fnmatch(file.name, pattern) for pattern in ignored):
            run(f"rm -r {shlex.quote(file.name)}", project)
    (start,) = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.M)

    with running(shlex.join(json.loads(start)), project) as (client, _):
        assert client.get("/users").json() == []


def test_ci_runs_the_gate() -> None:
    steps = re.findall(r"^ +- run: (.*)$", (ROOT / ".github/workflows/tests.yml").read_text(), re.M)

    assert steps == [".ci/run"]
    assert os.access(ROOT / ".ci/run", os.X_OK)
