"""What is added as FastAPI's and SQLAlchemy's own pages write it works, and takes nothing down.

What is added stands in `app.py`, beside this file.
"""

import itertools
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from threading import Event

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect as connect_socket

from helpers import (
    TOKEN,
    VISITS,
    add,
    assert_unavailable,
    at_once,
    connect,
    logged,
    make_tables,
    run_module,
    sql,
    until_served,
    wait_until,
)
from postgres import Postgres
from service import ROOT, Service, StartService

pytestmark = pytest.mark.slow

FUNCTION = """CREATE FUNCTION visit() RETURNS void LANGUAGE sql
    AS $$ INSERT INTO visits (page) VALUES ('function') $$"""
USERS = 50
THEIR_TESTS = ["pytest", "-q", "tests/second_day/their_tests.py"]
ME = {"X-User": "user0@example.com"}


@pytest.fixture(scope="module")
def url(create_database: Callable[[], str]) -> str:
    return create_database()


@pytest.fixture(scope="module")
def service(_start: StartService, url: str) -> Service:
    service = _start(url, "--app-dir", "tests", app="second_day.app:app")
    service.wait().close()
    make_tables(url, VISITS)
    if url.startswith("postgresql"):
        sql(url, FUNCTION)
    sql(
        url,
        *(
            f"INSERT INTO users (name, email) VALUES ('User {n}', 'user{n}@example.com')"
            for n in range(USERS)
        ),
    )
    return service


numbers = itertools.count()


def assert_in_time(client: httpx.Client, seconds: float = 3) -> None:
    """See that reads, writes and /health are answered meanwhile."""
    user = {"name": "In time", "email": f"in-time{next(numbers)}@example.com"}
    for _ in range(3):
        began = time.monotonic()
        assert client.get("/users").status_code == 200
        assert client.get("/users/1").status_code == 200
        assert client.get("/users/999999").status_code == 404
        assert client.get("/health").status_code == 200
        assert time.monotonic() - began < seconds
    began = time.monotonic()
    created = add(client, user)
    assert client.delete(created.headers["location"]).status_code == 204
    assert time.monotonic() - began < seconds


@pytest.fixture
def client(service: Service, url: str) -> Iterator[httpx.Client]:
    sql(url, "DELETE FROM visits")
    seen = len(service.log.read_text())
    with service.client() as client:
        yield client
        assert_in_time(client)
    log = service.log.read_text()[seen:]
    assert "Traceback" not in log, log
    assert "garbage collector" not in log, log


def pages(url: str) -> list[str]:
    return [page for (page,) in sql(url, "SELECT page FROM visits ORDER BY id")]


def test_a_login_beside_the_endpoint_s_own_session_works_for_many_at_once(
    client: httpx.Client, url: str
) -> None:
    answers = at_once([partial(client.get, "/me", headers=ME)] * 60)
    assert {answer.status_code for answer in answers} == {200}
    assert answers[0].json() == {"name": "User 0", "users": USERS}

    answers = at_once([partial(client.post, "/me/visits", headers=ME)] * 20)
    assert {answer.status_code for answer in answers} == {200}
    assert len(pages(url)) == 20

    answers = at_once([partial(client.get, "/me/mixed", headers=ME)] * 20)
    assert {answer.text for answer in answers} == {f'["User 0",{USERS},{USERS},{USERS}]'}

    assert client.get("/me", headers={"X-User": "nobody"}).status_code == 401


@pytest.mark.parametrize("how", ["", "/text", "/savepoint", "/cte", "/function"])
def test_a_get_that_writes_stores_nothing_before_its_commit(
    client: httpx.Client, url: str, how: str
) -> None:
    answers = at_once([partial(client.get, f"/visit{how}")] * 20)

    assert {answer.status_code for answer in answers} == {200 if how else 418}
    assert pages(url) == []
    assert client.get("/visit/stored").status_code == 200
    assert client.get("/visit/savepoint?commit=true").status_code == 200
    assert pages(url) == ["stored", "inner"]


def test_a_stream_has_all_rows_for_many_clients_at_once(client: httpx.Client) -> None:
    for address in ("/export", "/lines", "/lines/async"):
        answers = at_once([partial(client.get, address)] * 16)
        for answer in answers:
            assert answer.status_code == 200
            assert len(answer.text.splitlines()) == USERS, address
    for answer in at_once([partial(client.get, "/events")] * 16):
        assert answer.text.count(f'data: {{"users":{USERS}}}') == 3
    for address in ("/export", "/lines", "/events?times=1"):
        assert (head := client.head(address)).status_code == 200
        assert head.content == b""


def test_many_open_streams_keep_nobody_out(client: httpx.Client, service: Service) -> None:
    def open_stream(number: int) -> int:
        with service.client() as one:
            address = "/watch" if number % 2 else "/export?wait=0.2"
            with one.stream("GET", address) as stream:
                opened.append(stream.status_code)
                closed.wait(30)
                return stream.status_code

    opened: list[int] = []
    closed = Event()
    with ThreadPoolExecutor(30) as pool:
        streams = [pool.submit(open_stream, number) for number in range(30)]
        wait_until(lambda: opened.count(200) == 20, lambda: str(opened))
        assert_in_time(client)
        wait_until(lambda: opened.count(503) == 10, lambda: str(opened))
        assert_in_time(client)
        closed.set()
    assert [stream.result() for stream in streams].count(200) == 20


def test_a_slow_body_that_the_endpoint_reads_itself_keeps_nobody_out(
    client: httpx.Client,
) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(client)) for _ in range(8)]
        for one in slow:
            one.sendall(b"POST /hook HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab")
        assert_in_time(client)
        for one in slow:
            one.sendall(b"cd")
            assert one.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_writes_in_the_event_loop_do_not_stop_it(client: httpx.Client, url: str) -> None:
    with ThreadPoolExecutor() as pool:
        writes = [pool.submit(client.get, "/visit/async") for _ in range(10)]
        assert_in_time(client)
        statuses = [write.result().status_code for write in writes]
    assert set(statuses) <= {200, 503}
    assert len(pages(url)) == statuses.count(200) > 0


def test_a_time_limit_of_somebody_else_loses_no_turn(client: httpx.Client) -> None:
    for _ in range(3):
        answers = at_once([partial(client.get, "/limited")] * 12)
        assert {answer.status_code for answer in answers} <= {504, 503}
        assert 504 in {answer.status_code for answer in answers}
    assert len(at_once([partial(client.get, "/photos")] * 16)) == 16


def test_clients_that_leave_a_stream_or_never_read_it_keep_nobody_out(
    client: httpx.Client, service: Service
) -> None:
    for number in range(40):
        address = ("/watch", "/export?wait=0.01", "/lines?wait=0.01", "/events")[number % 4]
        with service.client() as one, one.stream("GET", address) as stream:
            assert stream.status_code in (200, 503)
            next(stream.iter_raw())
    with ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((client.base_url.host, client.base_url.port or 0))
            connection.sendall(b"GET /export?pad=100000 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert_in_time(client)


def test_background_tasks_use_the_session_of_the_request(client: httpx.Client, url: str) -> None:
    answers = at_once([partial(client.post, "/later")] * 20)

    assert {answer.status_code for answer in answers} == {200}
    assert_in_time(client, seconds=8)
    wait_until(lambda: len(pages(url)) == 20, lambda: str(pages(url)))

    name = client.get("/users/2").json()["name"]
    assert client.post("/later/2").status_code == 200
    wait_until(
        lambda: client.get("/users/2").json()["name"] == f"{name} was here",
        lambda: client.get("/users/2").text,
    )


def test_web_sockets_have_a_session(client: httpx.Client, service: Service, url: str) -> None:
    address = service.url.replace("http", "ws") + "/ws"
    with ExitStack() as stack:
        sockets = [stack.enter_context(connect_socket(address)) for _ in range(20)]
        for _ in range(3):
            for one in sockets:
                one.send("socket")
            for one in sockets:
                assert one.recv(timeout=15) == f'{{"users":{USERS}}}'
        assert_in_time(client)
        with ThreadPoolExecutor() as pool:  # which holds the lock of SQLite for a moment
            missing = [pool.submit(client.delete, "/users/999999") for _ in range(40)]
            for one in sockets:
                one.send("socket")
                one.recv(timeout=15)
            assert {answer.result().status_code for answer in missing} == {404}
    assert pages(url) == ["socket"] * 80


def test_a_job_that_only_reads_keeps_no_writer_waiting(client: httpx.Client) -> None:
    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(client.post, "/report") for _ in range(3)]
        time.sleep(0.5)
        assert_in_time(client)
        assert {job.result().status_code for job in jobs} == {200}


def test_a_router_of_its_own_and_a_mounted_app_work(client: httpx.Client) -> None:
    for address in ("/photos", "/mounted/users"):
        answers = at_once([partial(client.get, address)] * 20)
        assert {answer.status_code for answer in answers} == {200}
        assert len(answers[0].json()) == USERS
    assert client.get("/metrics").text == client.get("/admin/").text == "users_total 1"


def test_a_router_has_a_start_of_its_own_and_the_log_names_one_that_is_not_run(
    client: httpx.Client, service: Service
) -> None:
    assert client.get("/cache").json() == f"warm, {USERS} users"
    assert "on_event is not run" in service.log.read_text()


def test_a_time_out_of_somebody_else_is_500_with_its_traceback(service: Service) -> None:
    seen = len(service.log.read_text())
    with service.client() as client:
        assert client.get("/timeout").status_code == 500
        assert_in_time(client)
    assert "TimeoutError: somebody else's" in logged(service.log, "Traceback", seen)


def test_a_404_never_waits_behind_somebody_s_slow_work(client: httpx.Client) -> None:
    with ThreadPoolExecutor(60) as pool:
        slow = [pool.submit(client.get, "/slow") for _ in range(50)]
        time.sleep(0.5)
        began = time.monotonic()
        assert client.get("/nothing").status_code == 404
        assert client.get("/users/999999").status_code == 404
        assert client.get("/visit").status_code == 418  # which rolls back
        assert time.monotonic() - began < 1
        assert {answer.result().status_code for answer in slow} == {200}


def test_with_a_token_whatever_was_added_is_closed_but_what_is_named_as_open(
    start: StartService, url: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_TOKEN", TOKEN)
    closed = start(url, "--app-dir", "tests", app="second_day.app:app")
    with closed.wait() as client:
        for address in ("/photos", "/mounted/users", "/metrics", "/admin/", "/nothing"):
            for method in ("GET", "POST", "OPTIONS"):
                answer = client.request(method, address)
                assert answer.status_code == 401, (method, address)
                assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/console/").text == "Who are you?"
        allowed = {"Authorization": f"Bearer {TOKEN}"}
        assert client.get("/metrics", headers=allowed).status_code == 200
        assert client.get("/mounted/users", headers=allowed).status_code == 200
        assert client.get("/nothing", headers=allowed).status_code == 404

        # Refused before a body is sent, let alone read.
        with connect(client) as connection:
            connection.sendall(b"POST /users HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")

        address = closed.url.replace("http", "ws") + "/ws"
        with pytest.raises(InvalidStatus) as refused, connect_socket(address):
            pass
        assert refused.value.response.status_code == 401
        with connect_socket(address, additional_headers=allowed) as one:
            one.send("in")
            assert "users" in str(one.recv(timeout=15))

        document = client.get("/openapi.json").json()
        assert document["paths"]["/photos"]["get"]["security"] == [{"token": []}]


def test_an_outage_in_a_mounted_app_is_503(start: StartService, postgres: Postgres) -> None:
    service = start(postgres.url(), "--app-dir", "tests", app="second_day.app:app")
    with service.wait() as client:
        assert client.get("/mounted/users").json() == []
        postgres.stop()
        assert_unavailable(client.get("/mounted/users"))
        assert_unavailable(client.get("/photos"))
        postgres.start()
        assert client.get("/mounted/users").json() == []


def test_an_answer_that_is_ready_is_sent_though_the_database_has_gone(
    start: StartService, postgres: Postgres
) -> None:
    service = start(postgres.url(), "--app-dir", "tests", app="second_day.app:app")
    with service.wait() as client, ThreadPoolExecutor() as pool:
        answers = [pool.submit(client.get, "/count?wait=2") for _ in range(4)]
        time.sleep(0.5)
        postgres.stop("immediate")
        assert {answer.result().text for answer in answers} == {"0"}
        assert_unavailable(client.get("/count"))
        postgres.start()
        assert until_served(lambda: client.get("/count")).text == "0"


@pytest.mark.parametrize("options", [["-p", "no:asyncio"], []], ids=["as it is", "pytest-asyncio"])
def test_the_documented_way_of_testing_works_and_never_touches_the_real_database(
    url: str, service: Service, tmp_path: Path, options: list[str]
) -> None:
    real = tmp_path / "real.db"
    databases = {"DATABASE_URL": f"sqlite:///{real}", "TEST_DATABASE_URL": url}

    code, said = run_module(*THEIR_TESTS, "-k", "not loop", *options, cwd=ROOT, **databases)

    assert code == 0, said
    assert "passed" in said
    assert not real.exists()


def test_tests_may_run_in_several_event_loops(new_database: str) -> None:
    code, said = run_module(*THEIR_TESTS, "-k", "loop", cwd=ROOT, DATABASE_URL=new_database)

    assert code == 0, said
    assert "passed" in said
