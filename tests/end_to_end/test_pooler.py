"""What a pooler changes: PgBouncer lends a server connection for one transaction at a time."""

import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import psycopg
import pytest

from helpers import ADA, GRACE, add, at_once, logged
from postgres import Postgres, free_port
from production.settings import LOCK_TIMEOUT
from service import StartService

pytestmark = pytest.mark.slow

Change = tuple[dict[str, str], httpx.Response]

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
SETTINGS = """
[databases]
* = host=127.0.0.1 port={port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = trust
auth_file = users.txt
admin_users = postgres
pool_mode = transaction
"""


@pytest.fixture
def pooler(postgres: Postgres, postgres_directory: Path) -> Iterator[str]:
    """Start PgBouncer in front of the server; return its URL without the database's name."""
    if PGBOUNCER is None and not os.environ.get("CI"):
        pytest.skip("needs PgBouncer: apt-get install pgbouncer")
    assert PGBOUNCER, "needs PgBouncer: apt-get install pgbouncer"
    listen_port = free_port()
    directory = Path(tempfile.mkdtemp(dir=postgres_directory))
    directory.chmod(0o755)  # for the user below
    settings = directory / "pgbouncer.ini"
    settings.write_text(SETTINGS.format(port=postgres.port, listen_port=listen_port))
    (directory / "users.txt").write_text('"postgres" ""')
    url = f"postgresql://postgres@127.0.0.1:{listen_port}"
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [PGBOUNCER, settings],
            user=postgres.user,
            cwd=directory,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        logged(directory / "log", "process up")
        yield url
    finally:
        process.kill()
        process.wait()


def test_a_service_behind_a_pooler_makes_its_tables_and_serves(
    start: StartService, pooler: str
) -> None:
    with start(f"{pooler}/postgres").wait() as client:
        assert client.get("/health").status_code == 200

        ada = add(client, ADA)
        address, tag = ada.headers["location"], ada.headers["etag"]
        assert client.get("/users").json() == [ada.json()]

        changed = client.patch(address, json={"name": "Ada King"}, headers={"If-Match": tag})

        assert changed.status_code == 200
        assert changed.json() == ada.json() | {"name": "Ada King"}

        late = client.patch(address, json={"name": "Late"}, headers={"If-Match": tag})

        assert late.status_code == 412
        assert client.get(address).json() == changed.json()

        assert client.delete(address).status_code == 204
        assert client.get("/users").json() == []


def test_changes_of_names_and_of_emails_at_once_do_not_touch_each_other(
    start: StartService, pooler: str
) -> None:
    one, other = start(f"{pooler}/postgres"), start(f"{pooler}/postgres")
    with one.wait() as first, other.wait() as second:
        users = [
            add(first, {"name": f"name-{number}", "email": f"mail-{number}@example.com"})
            for number in range(20)
        ]
        addresses = [user.headers["location"] for user in users]

        def write(client: httpx.Client, field: str, value: str) -> list[Change]:
            done = []
            for number, address in enumerate(addresses * 10):
                change = {field: value.format(number)}
                done.append((change, client.patch(address, json=change)))
            return done

        writers = [
            partial(write, client, field, value)
            for writer, client in enumerate([first, second] * 2)
            for field, value in (
                ("name", f"name-{writer}-{{}}"),
                ("email", f"mail-{writer}-{{}}@example.com"),
            )
        ]

        done = list(itertools.chain(*at_once(writers)))

        assert Counter(answer.status_code for _, answer in done) == {200: len(done)}
        for user, address in zip(users, addresses, strict=True):
            expected = user.json()
            changes = [(change, answer) for change, answer in done if answer.url.path == address]
            changes.sort(key=lambda pair: int(pair[1].headers["etag"].strip('"')))
            # In the order of the versions, each change keeps all those before it.
            for version, (change, answer) in enumerate(changes, 2):
                expected |= change
                assert answer.headers["etag"] == f'"{version}"'
                assert answer.json() == expected
            assert first.get(address).json() == second.get(address).json() == expected


def test_a_locked_table_is_503_if_the_role_has_the_timeouts(
    start: StartService, postgres: Postgres, pooler: str
) -> None:
    with psycopg.connect(postgres.url(), autocommit=True) as operator:
        for name, limit in (("lock", LOCK_TIMEOUT), ("statement", LOCK_TIMEOUT + 1)):
            operator.execute(f"ALTER ROLE postgres SET {name}_timeout = '{limit}s'".encode())
    with start(f"{pooler}/postgres").wait() as client:
        ada = add(client, ADA).json()
        # As after an hour, the pooler gets new connections, which the service has not set up.
        with psycopg.connect(f"{pooler}/pgbouncer", autocommit=True) as console:
            console.execute("RECONNECT")
        questions = [lambda: client.get("/users"), lambda: client.post("/users", json=GRACE)]

        with psycopg.connect(postgres.url()) as other:
            other.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
            began = time.monotonic()
            answers = at_once(questions)
            seconds = time.monotonic() - began

        assert [answer.status_code for answer in answers] == [503, 503]
        assert all(int(answer.headers["retry-after"]) > 0 for answer in answers)
        assert seconds < 10
        assert client.get("/users").json() == [ada]
        add(client, GRACE)
