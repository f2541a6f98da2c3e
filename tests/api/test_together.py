"""Many clients at once: nobody's change is lost, nobody is told something untrue."""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import httpx
import pytest
import sqlalchemy

from forks import Fork
from helpers import (
    ADA,
    HOLD_THE_SCHEMA,
    HOLD_THE_TABLE,
    add,
    assert_unavailable,
    at_once,
    logged,
    until_served,
)
from service import ROOT, StartService


def test_of_fifty_equal_posts_one_creates_the_user(client: httpx.Client) -> None:
    answers = at_once([lambda: client.post("/users", json=ADA)] * 50)

    assert Counter(answer.status_code for answer in answers) == {201: 1, 409: 49}
    assert len({answer.headers["location"] for answer in answers}) == 1
    assert len(client.get("/users").json()) == 1


def test_changing_a_user_while_it_is_deleted_is_never_a_500_and_deletes_once(
    client: httpx.Client,
) -> None:
    for _ in range(25):
        address = add(client, ADA).headers["location"]
        change = partial(client.patch, address, json={"name": "New"})
        deletion = partial(client.delete, address)

        statuses = [answer.status_code for answer in at_once([change, deletion] * 4)]

        assert set(statuses[::2]) <= {200, 404}
        assert Counter(statuses[1::2]) == {204: 1, 404: 3}


def test_of_two_changes_to_the_same_version_one_is_refused(client: httpx.Client) -> None:
    address = add(client, ADA).headers["location"]
    for number in range(25):
        version = {"If-Match": client.get(address).headers["etag"]}
        changes = [
            partial(client.patch, address, json={"name": f"{who} {number}"}, headers=version)
            for who in ("One", "Other")
        ]

        answers = at_once(changes)

        assert sorted(answer.status_code for answer in answers) == [200, 412]
        (done,) = (answer for answer in answers if answer.status_code == 200)
        assert client.get(address).json() == done.json()


def test_counting_up_with_if_match_and_retries_loses_no_step(client: httpx.Client) -> None:
    address = add(client, ADA | {"name": "0"}).headers["location"]

    def count_up() -> None:
        for _ in range(5):
            for _ in range(200):  # tries; one loses to 35 others at most
                read = client.get(address)
                name = str(int(read.json()["name"]) + 1)
                tag = read.headers["etag"]
                answer = client.patch(address, json={"name": name}, headers={"If-Match": tag})
                if answer.status_code == 200:
                    break
                assert answer.status_code == 412

    at_once([count_up] * 8)

    assert client.get(address).json()["name"] == "40"
    assert client.get(address).headers["etag"] == '"41"'


def test_changes_without_if_match_wait_for_each_other(client: httpx.Client) -> None:
    address = add(client, ADA).headers["location"]

    answers = at_once(
        [partial(client.patch, address, json={"name": f"Name {number}"}) for number in range(20)]
    )

    assert [answer.status_code for answer in answers] == [200] * 20
    tags = sorted(int(answer.headers["etag"].strip('"')) for answer in answers)
    assert tags == list(range(2, 22))
    (last,) = (answer for answer in answers if answer.headers["etag"] == '"21"')
    assert client.get(address).json() == last.json()


@pytest.mark.slow
def test_four_services_started_at_once_on_an_empty_database_all_come_up(
    start: StartService, new_database: str
) -> None:
    services = [start(new_database) for _ in range(4)]
    clients = [service.wait() for service in services]

    for number, client in enumerate(clients):
        add(client, {"name": "Ada", "email": f"ada{number}@example.com"})

    for client in clients:
        assert len(client.get("/users").json()) == 4
        client.close()


@pytest.mark.slow
def test_the_tables_are_created_once_however_many_ask_in_the_same_millisecond(
    new_database: str, tmp_path: Path
) -> None:
    go, logs = tmp_path / "go", [tmp_path / str(number) for number in range(6)]
    command = ["tests.api.make_tables", str(go)]
    environment = os.environ | {"DATABASE_URL": new_database}
    with ExitStack() as stack:
        forks = [stack.enter_context(Fork(command, ROOT, environment, log)) for log in logs]
        for log in logs:
            logged(log, "ready")

        go.touch()

        assert [fork.wait(30) for fork in forks] == [0] * 6


@pytest.mark.slow
def test_a_service_that_starts_while_the_schema_is_locked_says_503_and_recovers(
    start: StartService, new_database: str, new_engine: sqlalchemy.Engine
) -> None:
    with new_engine.connect() as other:
        other.exec_driver_sql(HOLD_THE_SCHEMA[new_engine.dialect.name])
        with start(new_database).wait() as client:
            assert_unavailable(client.get("/users"))

            other.rollback()

            assert until_served(lambda: client.get("/users")).json() == []
            add(client, ADA)


@pytest.mark.slow
def test_a_write_waits_for_another_program_or_is_told_when_to_come_back(
    client: httpx.Client, database: sqlalchemy.Engine
) -> None:
    with database.connect() as other, ThreadPoolExecutor() as pool:
        other.exec_driver_sql(HOLD_THE_TABLE[database.dialect.name])

        write = pool.submit(client.post, "/users", json=ADA)
        reads = [client.get("/users") for _ in range(10)]

        assert not write.done()
        assert [read.json() for read in reads] == [[]] * 10
        assert_unavailable(write.result())

        again = pool.submit(client.post, "/users", json=ADA)
        other.rollback()

        assert again.result().status_code == 201
