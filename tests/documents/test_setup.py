"""What stands beside the code: the requirements, .env.example, the Dockerfile and CI."""

import fnmatch
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from commands import OPERATIONS, README, block, command, commands, run, running, sections
from helpers import reason_not_to_start, replace
from service import ROOT

CONSTRAINTS = ROOT / "constraints.txt"
REFUSED_TOKEN = "change-me"
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def requirements(file: Path) -> Iterator[Requirement]:
    """Return what a file of requirements asks for, with the files that it includes."""
    for line in file.read_text().splitlines():
        if line.startswith("-r "):
            yield from requirements(file.parent / line.removeprefix("-r "))
        elif line and line[0] not in "#-":
            yield Requirement(line)


# The version of each package that was tested, by its name.
PINNED = {
    package.name: str(package.specifier).removeprefix("==")
    for package in requirements(CONSTRAINTS)
    if package.marker is None or package.marker.evaluate()
}


def needed(wanted: Iterable[Requirement]) -> set[str]:
    """Return the names of these packages and of all that they need, as they are installed here."""
    found: dict[tuple[str, str], Requirement] = {}
    wanted = list(wanted)
    while wanted:
        package = wanted.pop()
        for extra in ("", *package.extras):
            name = canonicalize_name(package.name)
            if (name, extra) in found:
                continue
            found[name, extra] = package
            for each in map(Requirement, metadata.requires(name) or ()):
                if each.marker is None or each.marker.evaluate({"extra": extra}):
                    wanted.append(each)
    return {name for name, _ in found}


def test_every_package_has_a_tested_version_which_is_in_the_range_asked_for() -> None:
    asked = list(requirements(ROOT / "tests/requirements.txt"))

    assert needed(asked) <= PINNED.keys()
    for package in asked:
        assert {each.operator for each in package.specifier} == {">=", "<"}
        assert PINNED[package.name] in package.specifier


def test_these_tests_run_with_the_versions_of_the_constraints() -> None:
    assert len(PINNED) > 50
    assert {name: metadata.version(name) for name in PINNED} == PINNED


@pytest.mark.parametrize("file", ["production/requirements.txt", "tests/requirements.txt"])
def test_uv_takes_the_versions_of_the_constraints(project: Path, file: str) -> None:
    python = f"--python {sys.executable}"  # in which all of it is installed
    install = f"uv pip install --offline --dry-run {python} -r {file}"
    assert "Would make no changes" in run(f"{install} 2>&1", project)

    constraints = project / CONSTRAINTS.name
    replace(constraints, f"fastapi=={PINNED['fastapi']}", "fastapi==0.165.1")

    assert "fastapi==0.165.1" in run(f"{install} 2>&1", project, status=1)


def test_a_production_install_gets_nothing_that_only_tests_need() -> None:
    production = needed(requirements(ROOT / "production/requirements.txt"))

    assert not production & {"pytest", "httpx", "fastapi-cli"}
    assert {"pytest", "httpx"} <= needed(requirements(ROOT / "requirements.txt"))


@pytest.mark.slow
def test_uv_installs_and_starts_the_service_with_one_line(project: Path) -> None:
    (start,) = re.findall(r"`(uv venv .*?)`", " ".join(sections(README)["Run it"].split()))

    with running(start, project) as (client, _):
        assert client.get("/users").json() == []

    installed = run("uv pip freeze", project)
    assert f"fastapi=={PINNED['fastapi']}\n" in installed
    assert not (project / "uv.lock").exists()


@pytest.mark.slow
def test_env_example_closes_the_service_with_its_token(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("API_TOKEN")  # which the tests set, for a file .env not to disturb them
    (project / ".venv").symlink_to(sys.prefix)
    (project / ".env.example").write_text((ROOT / ".env.example").read_text())
    make, curl = commands(README, "With a token")

    token = run(make, project).strip()

    example = f"API_TOKEN={REFUSED_TOKEN}\n"
    replace(project / ".env", example, f"API_TOKEN={token}\n")
    with running(block(README, "start"), project) as (client, _):
        assert client.get("/health").status_code == 200
        assert client.get("/users").status_code == 401
        curl = curl.replace("8000", str(client.base_url.port))
        assert "The token is not valid" in run(curl, project)
        assert run(curl.replace(REFUSED_TOKEN, token), project) == "[]\n"


def test_the_token_of_env_example_is_refused_at_the_start(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("API_TOKEN")
    shutil.copy(ROOT / ".env.example", project / ".env")

    assert REFUSED_TOKEN in reason_not_to_start(cwd=project).splitlines()[-1]


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

    for file in (".env", "uv.lock", "users.db", "users.db-wal", "backup.db", "backup.dump"):
        for ignored in (git, docker):
            assert any(fnmatch.fnmatch(file, pattern) for pattern in ignored), file


# There is no docker in the tests: what can be checked is that the Dockerfile does what the guide
# says, whose commands are run by test_readme.py.
def test_the_dockerfile_starts_and_checks_the_service_as_the_guide_says() -> None:
    guide = sections(OPERATIONS)["Container"]
    check, start = (json.loads(words) for words in re.findall(r"CMD (\[.*\])$", DOCKERFILE, re.M))

    _, _, options = command(OPERATIONS, "Settings").partition("--timeout-graceful-shutdown")
    assert shlex.join(start).endswith(f" --timeout-graceful-shutdown{options.rstrip()}")
    assert shlex.split(command(OPERATIONS, "Container"))[1:] == check[1:]
    assert re.findall(r"^RUN (pip install).* (-r .*)$", DOCKERFILE, re.M) == [
        ("pip install", "-r production/requirements.txt")
    ]
    assert "ENV DATABASE_URL=sqlite:////data/users.db" in DOCKERFILE
    assert "mount a volume at `/data`" in guide
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {"tests", "benchmarks"} <= set(ignored)


@pytest.mark.slow
def test_the_service_starts_with_the_files_and_packages_of_the_image_alone(project: Path) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for file in list(project.iterdir()):
        if any(fnmatch.fnmatch(file.name, pattern) for pattern in ignored):
            run(f"rm -r {shlex.quote(file.name)}", project)
    (start,) = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.M)
    only_for_tests = needed(requirements(ROOT / "tests/requirements.txt")) - needed(
        requirements(ROOT / "production/requirements.txt")
    )
    blocked = {name.replace("-", "_") for name in only_for_tests}
    assert {"pytest", "httpx", "fastapi_cli"} <= blocked
    # None in sys.modules: as if the package was not installed.
    uvicorn = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked})); import uvicorn; uvicorn.main()"
    )
    program, *options = json.loads(start)
    assert program == "uvicorn"

    with running(shlex.join(["python", "-c", uvicorn, *options]), project) as (client, _):
        assert client.get("/users").json() == []


def test_ci_runs_the_gate() -> None:
    steps = re.findall(r"^ +- run: (.*)$", (ROOT / ".github/workflows/tests.yml").read_text(), re.M)

    assert steps == [".ci/run"]
    assert os.access(ROOT / ".ci/run", os.X_OK)
