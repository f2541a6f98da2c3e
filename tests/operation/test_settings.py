"""What DATABASE_URL may be, and what the service says about one that it cannot use."""

import re
from pathlib import Path

import pytest

from helpers import (
    ADA,
    GRACE,
    REFUSED_URLS,
    add,
    assert_unavailable,
    logged,
    reason_not_to_start,
    sql,
    until_served,
)
from postgres import Postgres
from service import StartService


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


@pytest.mark.slow
def test_a_role_that_may_not_make_tables_is_503_with_the_reason_until_it_has_the_right(
    start: StartService, postgres: Postgres, role: str
) -> None:
    service = start(role)
    with service.wait() as client:
        for address in ("/users", "/users/1", "/health"):
            assert_unavailable(client.get(address))
        logged(service.log, "the tables cannot be made: permission denied for schema public")

        sql(postgres.url(), "GRANT CREATE ON SCHEMA public TO clerk")

        assert until_served(lambda: client.get("/users")).json() == []
        add(client, ADA)


@pytest.mark.slow
def test_a_role_that_may_only_read_serves_reads_and_writes_are_503_until_it_has_the_right(
    start: StartService, postgres: Postgres, role: str
) -> None:
    with start(postgres.url()).wait() as owner:
        add(owner, ADA)
    sql(postgres.url(), "GRANT SELECT ON users TO clerk")
    service = start(role)
    with service.wait() as client:
        assert_unavailable(client.get("/users"))
        logged(service.log, "permission denied for table alembic_version")
        sql(postgres.url(), "GRANT SELECT ON alembic_version TO clerk")

        assert until_served(lambda: client.get("/users/1")).status_code == 200
        assert_unavailable(client.post("/users", json=GRACE))
        assert_unavailable(client.patch("/users/1", json={"name": "X"}))
        assert_unavailable(client.delete("/users/1"))
        logged(service.log, "permission denied for table users")

        sql(postgres.url(), "GRANT INSERT, UPDATE, DELETE ON users TO clerk")

        add(client, GRACE)
        assert client.patch("/users/1", json={"name": "X"}).status_code == 200
        assert client.delete("/users/1").status_code == 204
        assert "Traceback" not in service.log.read_text()


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
            assert "already" in logged(service.log, reason)
        service.stop()

        sql(new_database, f"DROP {what}")
