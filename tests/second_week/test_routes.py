"""Routes of somebody's own: bodies, names and files; conditions; a worker beside the service.

What is added stands in `routes.py`, `conditions.py` and `worker.py`, beside this file.
"""

import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import sqlalchemy

from forks import Fork
from helpers import ADA, HOLD_THE_TABLE, JSON, MIB, logged, make_tables, sql
from service import ROOT, Service, StartService

pytestmark = pytest.mark.slow

KIB = 1024
SENT = ["declared", "chunked"]
NOTES = """CREATE TABLE notes (
    id {id}, text VARCHAR(100) NOT NULL, version BIGINT DEFAULT 1 NOT NULL)"""


@pytest.fixture(scope="module")
def service(_start: StartService, url: str) -> Iterator[Service]:
    service = _start(url, "--app-dir", "tests", app="second_week.routes:app")
    service.wait().close()
    yield service
    service.kill()


@pytest.fixture
def client(service: Service, url: str) -> Iterator[httpx.Client]:
    sql(url, "DELETE FROM users")
    seen = len(service.log.read_text())
    with service.client() as client:
        yield client
    assert "Traceback" not in (log := service.log.read_text()[seen:]), log


def post(client: httpx.Client, address: str, body: bytes, sent: str) -> httpx.Response:
    """Send a body whose length is declared, or in chunks."""
    pieces = (body[start : start + 16 * KIB] for start in range(0, len(body), 16 * KIB))
    content = body if sent == "declared" else pieces
    return client.post(address, content=content, headers=JSON)


def text(length: int) -> bytes:
    return b'{"text": "%b"}' % (b"x" * (length - 12))


@pytest.mark.parametrize("sent", SENT)
@pytest.mark.parametrize("address", ["/upload", "/books", "/letters"])
def test_a_route_or_a_router_may_take_more_than_the_others(
    client: httpx.Client, address: str, sent: str
) -> None:
    for length in (200 * KIB, MIB):
        answer = post(client, address, text(length), sent)
        assert answer.status_code == 200, answer.text
        assert answer.json() == length - (0 if address == "/upload" else 12)

    too_long = post(client, address, text(MIB + 1), sent)
    assert too_long.status_code == 413
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("sent", SENT)
def test_a_route_may_take_less_than_the_others(client: httpx.Client, sent: str) -> None:
    for length, status in ((1 * KIB, 200), (1 * KIB + 1, 413), (65 * KIB, 413)):
        assert post(client, "/upload/small", b"x" * length, sent).status_code == status


@pytest.mark.parametrize("sent", SENT)
def test_all_other_routes_take_64_kib(client: httpx.Client, sent: str) -> None:
    assert post(client, "/upload/usual", b"x" * 64 * KIB, sent).json() == 64 * KIB
    user = b'{"name": "Ada", "email": "ada@example.com"}'
    for length in (64 * KIB + 1, 200 * KIB, 2 * MIB):
        for address in ("/upload/usual", "/users"):
            assert post(client, address, user.ljust(length), sent).status_code == 413
    assert client.get("/users").json() == []
    assert post(client, "/users", user.ljust(64 * KIB), sent).status_code == 201


def test_functions_of_one_name_in_two_routers_have_operation_ids_of_their_own(
    client: httpx.Client, service: Service
) -> None:
    document = client.get("/openapi.json").json()

    operations = [operation for path in document["paths"].values() for operation in path.values()]
    ids = Counter(operation["operationId"] for operation in operations)
    assert max(ids.values()) == 1, ids
    assert len(ids) > 12
    assert "Warning" not in service.log.read_text()
    assert "Duplicate" not in service.log.read_text()


def bytes_read(service: Service) -> int:
    """Return how many bytes the process has read, of whatever."""
    counted = Path(f"/proc/{service.process.pid}/io").read_text()
    return int(counted.partition("rchar: ")[2].split()[0])


@pytest.mark.parametrize("address", ["/film", "/film/theirs", "/film/pieces"])
def test_head_does_not_read_a_large_file_that_nobody_sends(
    client: httpx.Client, service: Service, tmp_path: Path, address: str
) -> None:
    film = tmp_path / "film"
    size = 200 * MIB
    with film.open("wb") as file:
        file.truncate(size)  # it takes no room
    before = bytes_read(service)

    began = time.monotonic()
    head = client.head(address, params={"path": str(film)})
    took = time.monotonic() - began
    time.sleep(0.5)  # since it would be read after the answer

    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) == size
    assert bytes_read(service) - before < 10 * MIB
    assert took < 1
    film.write_bytes(b"begin, end")
    assert client.get(address, params={"path": str(film)}).content == b"begin, end"


def test_a_resource_of_somebody_s_own_has_conditions_by_one_line(
    start: StartService, new_database: str
) -> None:
    service = start(new_database, "--app-dir", "tests", app="second_week.conditions:app")
    with service.wait() as client:
        make_tables(new_database, NOTES, "INSERT INTO notes (text) VALUES ('first')")
        first = client.get("/notes/1")
        assert (first.status_code, first.headers["etag"]) == (200, '"1"')
        known = client.get("/notes/1", headers={"If-None-Match": '"7", "1"'})
        assert (known.status_code, known.headers["etag"]) == (304, '"1"')
        assert client.get("/notes/1", headers={"If-Match": '"7"'}).status_code == 412

        match = {"If-Match": first.headers["etag"]}
        changed = client.patch("/notes/1", json={"text": "second"}, headers=match)
        assert (changed.status_code, changed.headers["etag"]) == (200, '"2"')
        for stale in (match, {"If-None-Match": "*"}, {"If-Match": 'W/"2"'}):
            refused = client.patch("/notes/1", json={"text": "third"}, headers=stale)
            assert refused.status_code == 412, stale
        assert client.get("/notes/1").json() == {"text": "second"}

        paths = client.get("/openapi.json").json()["paths"]["/notes/{note_id}"]
        for method, headers in (("get", {"if-none-match"}), ("patch", {"if-match"})):
            parameters = paths[method].get("parameters", [])
            named = {one["name"].lower() for one in parameters if one["in"] == "header"}
            assert headers <= named, method


def test_a_model_of_somebody_s_own_may_be_named_problem(
    start: StartService, new_database: str
) -> None:
    service = start(new_database, "--app-dir", "tests", app="second_week.conditions:app")
    with service.wait() as client:
        document = client.get("/openapi.json")
        schemas = document.json()["components"]["schemas"]
        named = set(re.findall(r'"#/components/schemas/([^"]+)"', document.text))
        assert named <= set(schemas)
        for path in ("/users/{user_id}", "/notes/{note_id}"):
            answer = document.json()["paths"][path]["patch"]["responses"]["412"]
            name = answer["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            assert list(schemas[name]["properties"]) == ["detail"]


def test_one_route_with_several_methods_has_an_operation_id_for_each(
    start: StartService, new_database: str
) -> None:
    service = start(new_database, "--app-dir", "tests", app="second_week.conditions:app")
    with service.wait() as client:
        operations = client.get("/openapi.json").json()["paths"]["/echo"].values()
        assert len({operation["operationId"] for operation in operations}) == 3


def test_a_write_in_a_coroutine_of_a_worker_waits_for_the_lock(
    start: StartService, new_database: str, new_engine: sqlalchemy.Engine, tmp_path: Path
) -> None:
    service = start(new_database)
    with service.wait() as client, new_engine.connect() as other:
        assert client.get("/users").json() == []
        other.exec_driver_sql(HOLD_THE_TABLE[new_engine.dialect.name])
        environment = os.environ | {"DATABASE_URL": new_database}
        log = tmp_path / "log"
        worker = Fork(["tests.second_week.worker"], ROOT, environment, log)
        try:
            logged(log, "writing")
            time.sleep(1)
            assert "written" not in log.read_text()
            other.rollback()

            assert worker.wait(15) == 0, log.read_text()
        finally:
            worker.kill()
        assert [user["name"] for user in client.get("/users").json()] == [ADA["name"]]
