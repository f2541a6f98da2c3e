"""What DATABASE_URL may be, and what the service says about one that it cannot use."""

import os
import re
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import httpx
import pytest

from helpers import (
    ADA,
    GRACE,
    REFUSED_URLS,
    add,
    assert_unavailable,
    at_once,
    logged,
    reason_not_to_start,
    sql,
    until_served,
    wait_until,
)
from postgres import Postgres, accepts, free_port
from service import ROOT, Service, StartService


@pytest.mark.slow
@pytest.mark.parametrize("url", [url for url in REFUSED_URLS if "sec" in url])
def test_a_service_that_does_not_start_shows_no_piece_of_the_password(url: str) -> None:
    said = reason_not_to_start(DATABASE_URL=url)

    assert said.splitlines()[-1].startswith("ValueError: DATABASE_URL ")
    assert REFUSED_URLS[url] in said.splitlines()[-1]
    assert not re.search(r"\bsec|ret\b", said)


@pytest.mark.slow
def test_a_line_break_after_the_url_is_no_part_of_the_name_of_the_file(
    start: StartService, tmp_path: Path
) -> None:
    service = start(f"sqlite:///{tmp_path}/users.db\n")
    with service.wait() as client:
        add(client, ADA)
    service.stop()

    assert [file.name for file in tmp_path.iterdir()] == ["users.db"]


@pytest.fixture
def role(postgres: Postgres) -> str:
    """Make a role that may only connect; return its URL."""
    sql(postgres.url(), "CREATE ROLE clerk LOGIN")
    return postgres.url().replace("postgres@", "clerk@")


def grant_of(service: Service, reason: str) -> str:
    """Return the GRANT that the log names after this reason, for the role."""
    log = logged(service.log, reason)
    found = re.search(rf"{re.escape(reason)}.*?: (GRANT .*) TO the service's role", log)
    assert found, log
    return f"{found[1]} TO clerk"


@pytest.mark.slow
def test_a_role_that_may_not_make_tables_is_503_until_it_has_the_right_that_the_log_names(
    start: StartService, postgres: Postgres, role: str
) -> None:
    service = start(role)
    with service.wait() as client:
        for address in ("/users", "/users/1", "/health"):
            assert_unavailable(client.get(address))

        sql(postgres.url(), grant_of(service, "permission denied for schema public"))

        assert until_served(lambda: client.get("/users")).json() == []
        add(client, ADA)


@pytest.mark.slow
def test_a_role_that_may_not_write_is_503_until_it_has_the_right_that_the_log_names(
    start: StartService, postgres: Postgres, role: str
) -> None:
    with start(postgres.url()).wait() as owner:
        add(owner, ADA)
    sql(postgres.url(), "GRANT SELECT ON users TO clerk")
    service = start(role)
    reason = "permission denied for table users"
    with service.wait() as client:
        assert_unavailable(client.get("/users"))
        sql(postgres.url(), grant_of(service, "permission denied for table alembic_version"))
        for answer in (client.post("/users", json=GRACE), client.get("/health")):
            assert_unavailable(answer)
        assert f"{reason} (INSERT, UPDATE, DELETE)" in service.log.read_text()

        sql(postgres.url(), grant_of(service, reason))

        assert until_served(lambda: client.get("/health")).status_code == 200
        add(client, GRACE)

        sql(postgres.url(), "REVOKE UPDATE ON users FROM clerk")
        assert_unavailable(client.patch("/users/1", json={"name": "X"}))
        assert_unavailable(client.get("/health"))
        sql(postgres.url(), "REVOKE SELECT ON users FROM clerk")
        assert_unavailable(client.get("/users"))


@pytest.mark.slow
def test_a_view_or_a_type_of_the_name_users_is_left_alone(
    start: StartService, new_database: str
) -> None:
    made = {"VIEW users": "AS SELECT 1 AS one", "TYPE users": "AS (one int)"}
    if new_database.startswith("sqlite"):
        del made["TYPE users"]  # SQLite has none
    for what, definition in made.items():
        sql(new_database, f"CREATE {what} {definition}")
        service = start(new_database)
        with service.wait() as client:
            for address in ("/users", "/users/1", "/health"):
                assert_unavailable(client.get(address))
            reason = "The database does not answer: the tables cannot be made"
            assert "already" in logged(service.log, reason, times=3)
        service.stop()

        sql(new_database, f"DROP {what}")


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may change the name server"
)
def test_a_host_whose_name_nobody_resolves_is_503_within_five_seconds_for_everybody(
    tmp_path: Path,
) -> None:
    port = free_port()
    command: list[str | Path] = [
        *("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"'),
        *(tmp_path / "resolv.conf", sys.executable, "-m", "uvicorn", "main:app", f"--port={port}"),
    ]
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.153\n")
    environment = os.environ | {"DATABASE_URL": "postgresql://u@db.example.com/users"}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.153", 53))  # and never answers
        with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
            client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, verify=False)
            wait_until(lambda: accepts(port), lambda: "not up")
            for count in (1, 30, 30):
                answers = at_once([partial(client.get, "/users")] * count)

                for answer in answers:
                    assert_unavailable(answer)
                    assert answer.elapsed.total_seconds() < 5
            process.terminate()
            process.wait(15)
