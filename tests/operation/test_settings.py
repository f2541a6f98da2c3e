"""Where settings come from, and what the service says about one that it cannot use."""

import re
from functools import partial
from pathlib import Path

import httpx
import pytest

from helpers import (
    ADA,
    GRACE,
    REFUSED_URLS,
    TOKEN,
    add,
    assert_unavailable,
    at_once,
    logged,
    reason_not_to_start,
    run_module,
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


@pytest.fixture
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every setting out of the environment: an empty one would go before the others."""
    for setting in ("DATABASE_URL", "DATABASE_READ_URL", "DATABASE_CONNECTIONS", "API_TOKEN"):
        monkeypatch.delenv(setting, raising=False)


def secrets(directory: Path, monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    """Write secrets as systemd's LoadCredential= gives them to a service."""
    directory.mkdir()
    for name, value in values.items():
        (directory / name).write_text(value)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))


def takes(client: httpx.Client, token: str) -> bool:
    """Tell whether the service takes this token."""
    headers = {"Authorization": f"Bearer {token}".strip()}
    status = client.get("/users", headers=headers).status_code
    assert status in (200, 401)
    return status == 200


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_set")
def test_a_setting_can_be_a_file_of_its_name_among_the_secrets(
    start: StartService, project: Path, new_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"api_token": f"{TOKEN}\n", "database_url": f"{new_database}\n"}
    secrets(project / "credentials", monkeypatch, **files)
    service = start(None, cwd=project)
    with service.wait() as client:
        assert not takes(client, "")
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        add(client, ADA)

    assert sql(new_database, "SELECT email FROM users") == [(ADA["email"],)]
    assert not (project / "users.db").exists()
    assert "API_TOKEN is not set" not in service.log.read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_set")
def test_the_environment_goes_before_the_file_env_and_that_before_a_secret(
    start: StartService, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{project}/test.db"
    tokens = {"of-the-environment", "of-the-file", "of-a-secret"}

    def taken() -> set[str]:
        service = start(url, cwd=project)
        with service.wait() as client:
            found = {token for token in tokens if takes(client, token)}
        service.stop()
        return found

    secrets(project / "credentials", monkeypatch, api_token="of-a-secret")
    assert taken() == {"of-a-secret"}
    (project / ".env").write_text("API_TOKEN=of-the-file\nSETTING_OF_ANOTHER_PROGRAM=1\n")
    assert taken() == {"of-the-file"}
    monkeypatch.setenv("API_TOKEN", "of-the-environment")
    assert taken() == {"of-the-environment"}
    monkeypatch.setenv("API_TOKEN", "")
    assert taken() == tokens  # an empty one, too: the service is open


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_set")
def test_the_service_and_alembic_read_the_same_file_env_from_wherever_they_are_started(
    start: StartService, project: Path, new_database: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # With the mark at its beginning that editors of Windows write.
    text = f"DATABASE_URL={new_database}\nAPI_TOKEN={TOKEN}\n"
    (project / ".env").write_text(text, encoding="utf-8-sig")
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    code, said = run_module(
        *("alembic", "-c", str(project / "pyproject.toml"), "upgrade", "head"), cwd=elsewhere
    )
    assert code == 0, said
    assert sql(new_database, "SELECT count(*) FROM users") == [(0,)]
    service = start(None, "--app-dir", str(project), cwd=elsewhere)
    with service.wait() as client:
        assert not takes(client, "")
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        add(client, ADA)

    assert sql(new_database, "SELECT email FROM users") == [(ADA["email"],)]
    assert list(elsewhere.iterdir()) == []
    assert not (project / "users.db").exists()


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_file_env_that_is_not_in_utf_8_stops_the_start_with_a_sentence(
    project: Path, encoding: str
) -> None:
    text = "# Clé\nAPI_TOKEN=s3cret\nDATABASE_URL=postgresql://u:s3cret@localhost/users\n"
    (project / ".env").write_text(text, encoding=encoding)

    said = reason_not_to_start(project)

    assert said.splitlines()[-1] == "ValueError: the file .env must be in UTF-8"
    assert "s3cret" not in said


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_set")
@pytest.mark.parametrize(
    ("number", "reason"),
    [
        ("s3cret", "should be a valid integer"),
        ("5.5", "should be a valid integer"),
        ("2", "should be greater than or equal to 3"),
        ("0", "should be greater than or equal to 3"),
        ("-5", "should be greater than or equal to 3"),
    ],
)
def test_a_number_of_connections_that_is_none_stops_the_start_with_a_sentence(
    project: Path, number: str, reason: str
) -> None:
    (project / ".env").write_text("API_TOKEN=s3cret\n")
    url = "postgresql://u:s3cret@localhost/users"

    said = reason_not_to_start(project, DATABASE_CONNECTIONS=number, DATABASE_URL=url)

    assert said.splitlines()[-1].startswith(f"ValueError: DATABASE_CONNECTIONS {reason}")
    assert "s3cret" not in said


@pytest.mark.slow
@pytest.mark.parametrize("number", [3, 5])
def test_as_many_connections_as_the_role_may_have_serve_any_number_of_clients(
    start: StartService,
    postgres: Postgres,
    role: str,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    limit = f"ALTER ROLE clerk CONNECTION LIMIT {number}"
    sql(postgres.url(), limit, "GRANT CREATE ON SCHEMA public TO clerk")
    monkeypatch.setenv("DATABASE_CONNECTIONS", str(number))
    service = start(role)

    def use(client: httpx.Client, me: int) -> list[int]:
        user = {"name": "Ada", "email": f"ada{me}@example.com"}
        created = client.post("/users", json=user)
        if created.status_code != 201:
            return [created.status_code]
        address = created.headers["location"]
        answers = [created, client.get(address), client.patch(address, json={"name": "New"})]
        reads = ("/users", f"/users?email={user['email']}", "/health", address)
        answers += [client.get(read) for read in reads]
        return [answer.status_code for answer in answers]

    with service.wait() as first, service.client(limits=httpx.Limits()) as crowd:
        statuses = at_once([partial(use, crowd, me) for me in range(40)])

        assert statuses == [[201, *[200] * 6]] * 40
        assert len(first.get("/users").json()) == 40
    assert "too many connections" not in service.log.read_text()
