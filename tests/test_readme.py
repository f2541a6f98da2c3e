"""The README, taken at its word: its commands are run as they stand there."""

import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from conftest import ROOT, StartService
from postgres import Postgres, free_port
from test_users import ADA, GRACE, add

README = (ROOT / "README.md").read_text()
FRENCH = (ROOT / "README.fr.md").read_text()
TOOLS = Path(sys.executable).parent


def section(heading: str) -> str:
    found = re.search(rf"^#+ {heading}\n(.*?)(?=^#+ |\Z)", README, re.M | re.S)
    assert found, heading
    return found[1]


def blocks(text: str, language: str = "sh") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PATH": f"{TOOLS}:{os.environ['PATH']}", "DATABASE_URL": ""} | more


def run(block: str, directory: Path, *, fails: bool = False, **more: str) -> str:
    done = subprocess.run(
        ["bash", "-c" if fails else "-ec", block],
        cwd=directory,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if fails else None,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}"
    return done.stdout


@contextmanager
def running(block: str, directory: Path, port: int, **more: str) -> Iterator[httpx.Client]:
    """Run a block that ends with a server, until that answers at a port of its own."""
    block = block.replace("--port 8000", "")
    with (directory / "log").open("w") as log:
        shell = subprocess.Popen(
            ["bash", "-ec", block],
            cwd=directory,
            env=environment(UVICORN_PORT=str(port), **more),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        with httpx.Client(base_url=f"http://localhost:{port}", timeout=30) as client:
            deadline = time.monotonic() + 300
            while True:
                try:
                    client.get("/health")
                    break
                except httpx.TransportError:
                    assert shell.poll() is None, (directory / "log").read_text()
                    assert time.monotonic() < deadline, (directory / "log").read_text()
                    time.sleep(0.1)
            yield client
    finally:
        os.killpg(shell.pid, signal.SIGTERM)
        shell.wait(30)


@pytest.fixture
def port() -> int:
    return free_port()


def test_every_command_of_both_readmes_is_run_by_a_test() -> None:
    run_here = [
        *("Run it", "The eight lessons", "In production", "Schema changes"),
        *("Backup and restore", "Add another door"),
    ]
    tested = [block for heading in run_here for block in blocks(section(heading))]
    tested += blocks(section("Test it"))  # run by .ci/run, which reads it from there
    assert Counter(blocks(README)) == Counter(tested)
    assert Counter(blocks(FRENCH)) <= Counter(tested)
    assert "## Test it" in (ROOT / ".ci/run").read_text()


def test_the_quick_start_gives_the_answers_that_it_shows(project: Path, port: int) -> None:
    shutil.rmtree(project / "tests")
    install, *curls = blocks(section("Run it"))
    replies = blocks(section("Run it"), "json")
    assert install.endswith("uvicorn main:app --reload\n")
    assert len(curls) == len(replies) == 3
    with running(install, project, port):
        for curl, reply in zip(curls, replies, strict=True):
            # curl prints no line break after an answer.
            said = run(curl.replace("localhost:8000", f"localhost:{port}"), project)
            assert said == reply.replace("\n", "")


def test_the_french_readme_starts_the_service_in_the_same_way() -> None:
    assert blocks(FRENCH)[: len(blocks(section("Run it")))] == blocks(section("Run it"))
    assert breaks(FRENCH) == breaks(README)


def breaks(text: str) -> list[list[str]]:
    """Return number, file, replaced and replacement from the rows of the table of lessons."""
    rows = re.findall(r"^\| (\d) \|.*\| `(.+?)` \| `(.+?)` \| `(.+?)` \|$", text, re.M)
    return [list(row) for row in rows]


@pytest.mark.parametrize("lesson", breaks(README), ids=lambda row: f"lesson {row[0]}")
def test_a_broken_lesson_is_seen_by_its_test(project: Path, lesson: list[str]) -> None:
    number, file, replaced, replacement = lesson
    code = (project / file).read_text()
    assert replaced in code
    (project / file).write_text(code.replace(replaced, replacement))
    said = run(f"pytest -x -k lesson_{number} || true", project, fails=True)
    assert re.search(rf"FAILED tests/test_lessons.py::test_lesson_{number}_", said), said


def test_there_is_an_experiment_for_each_lesson(project: Path) -> None:
    assert [row[0] for row in breaks(README)] == list("12345678")
    (experiment,) = blocks(section("The eight lessons"))
    before = (project / "database.py").read_text()
    assert "FAILED tests/test_lessons.py" in run(experiment, project, fails=True)
    assert (project / "database.py").read_text() == before


def test_the_production_command_serves_from_postgresql(
    project: Path, postgres: Postgres, port: int
) -> None:
    serve, _ = blocks(section("In production"))
    assert "postgresql://users:secret@localhost/users" in serve
    serve = serve.replace("postgresql://users:secret@localhost/users", postgres.url())
    with running(serve, project, port) as client:
        add(client, ADA)
        assert client.get("/users").json() == [{"id": 1, **ADA}]


def test_traces_and_metrics_reach_a_collector(project: Path, port: int) -> None:
    _, telemetry = blocks(section("In production"))
    received: dict[str, bytes] = {}

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received[self.path] = received.get(self.path, b"") + body
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever).start()
        telemetry = telemetry.replace("localhost:4318", f"localhost:{collector.server_port}")
        try:
            with running(telemetry, project, port, OTEL_EXPORTER_OTLP_COMPRESSION="none") as client:
                address = add(client, ADA).headers["location"]
                client.get(address)
        finally:
            collector.shutdown()
    assert b"/users/{user_id}" in received["/v1/traces"]
    assert b"http.server.request.duration" in received["/v1/metrics"]
    assert b"ada@example.com" not in b"".join(received.values())


def test_a_schema_change_becomes_a_step_that_the_next_start_takes(
    start: StartService, project: Path
) -> None:
    with start("", cwd=project).wait() as client:
        ada = add(client, ADA)
    models = project / "models.py"
    models.write_text(
        models.read_text() + "    nick: Mapped[str] = mapped_column(server_default='')\n"
    )
    (change,) = blocks(section("Schema changes"))
    run(change, project)
    (step,) = (project / "migrations/versions").glob("*what_changes.py")
    assert "nick" in step.read_text()
    with start("", cwd=project).wait() as client:
        assert client.get("/users").json() == [ada.json()]
        assert client.get("/users/1").headers["etag"] == ada.headers["etag"]
        add(client, GRACE)


def test_a_sqlite_backup_made_while_the_service_runs_brings_everything_back(
    start: StartService, project: Path
) -> None:
    backup, restore, _, _ = blocks(section("Backup and restore"))
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
    _, _, backup, restore = blocks(section("Backup and restore"))
    programs = f"{postgres.programs}:{os.environ['PATH']}"
    with start(postgres.url()).wait() as client:
        ada = add(client, ADA)
        run(backup, tmp_path, PATH=programs, DATABASE_URL=postgres.url())
        client.delete(ada.headers["location"])
        add(client, GRACE)
        run(restore, tmp_path, PATH=programs, DATABASE_URL=postgres.url())
        assert client.get("/users").json() == [ada.json()]
        assert client.get(ada.headers["location"]).headers["etag"] == ada.headers["etag"]
        assert add(client, GRACE).json()["id"] > ada.json()["id"]


def test_another_door_opens_in_four_steps(
    start: StartService, project: Path, new_database: str
) -> None:
    text = section("Add another door")
    files = re.findall(r"in `(\w+\.py)`", text)
    codes = blocks(text, "python")
    assert files == ["models.py", "schemas.py", "main.py"]
    for file, code in zip(files, codes, strict=True):
        with (project / file).open("a") as end:
            end.write(f"\n\n{code}")
    with start(new_database, cwd=project).wait() as client:  # the database that the step needs
        ada = add(client, ADA).json()
        assert client.get("/photos").status_code == 503
    (migrate,) = blocks(text)
    run(migrate, project, DATABASE_URL=new_database)
    with start(new_database, cwd=project).wait() as client:
        assert client.get("/photos").json() == []
        photo = {"user_id": ada["id"], "title": "A portrait"}
        created = client.post("/photos", json=photo)
        assert created.status_code == 201
        assert client.get("/photos").json() == [{"id": created.json()["id"], **photo}]
        assert client.post("/photos", json=photo | {"user_id": 99}).status_code == 409
        assert client.post("/photos", json=photo | {"title": ""}).status_code == 422
        assert client.delete(f"/users/{ada['id']}").status_code == 204
        assert client.get("/photos").json() == []
        assert {"/photos"} < set(client.get("/openapi.json").json()["paths"])


def test_the_table_of_addresses_says_the_same_as_openapi(client: httpx.Client) -> None:
    rows = re.findall(r"^\| `(\w+) (/\S+)` \| (.*) \|$", section("What it answers"), re.M)
    promised = {
        (path, method.lower()): {*re.findall(r"\b[2-4]\d\d\b", text), "503"}
        for method, path, text in rows
    }
    documented = {
        (path, method): set(operation["responses"])
        for path, operations in client.get("/openapi.json").json()["paths"].items()
        for method, operation in operations.items()
    }
    assert promised == documented
