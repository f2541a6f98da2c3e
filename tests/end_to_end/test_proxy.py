"""The service behind a real nginx: docs/nginx.conf, with other ports, paths and time-outs."""

import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy
from playwright.sync_api import Page

from browser import execute
from helpers import ADA, MIB, add, add_many, memory, sql
from nginx import NEIGHBOUR, NGINX, Proxy
from service import Service, StartService

pytestmark = pytest.mark.slow

UNDER_THE_PREFIX = ("--root-path", "/api")
HALF_A_BODY = (
    b"POST /api/users HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b'Content-Length: 60\r\n\r\n{"name": "A'
)


StartProxy = Callable[..., Proxy]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The database of the service that most of these tests share."""
    return f"sqlite:///{tmp_path_factory.mktemp('proxy')}/users.db"


@pytest.fixture(scope="module")
def service(_start: StartService, url: str) -> Iterator[Service]:
    service = _start(url, *UNDER_THE_PREFIX)
    service.wait().close()
    yield service
    service.kill()


@pytest.fixture
def start_proxy(service: Service, url: str, postgres_directory: Path) -> Iterator[StartProxy]:
    """Start nginx in front of a service, with some words of its configuration changed.

    The service that is shared has no users then, and gives its next one the id 1.
    """
    if not (NGINX and shutil.which("openssl")) and not os.environ.get("CI"):
        pytest.skip("needs nginx and openssl: apt-get install nginx openssl")
    sql(url, "DELETE FROM users", "DELETE FROM sqlite_sequence")
    proxies: list[Proxy] = []

    def run(changes: dict[str, str] | None = None, behind: Service = service) -> Proxy:
        # Started by root, nginx works as www-data, who may not enter the directories of pytest.
        directory = Path(tempfile.mkdtemp(dir=postgres_directory))
        directory.chmod(0o755)
        proxies.append(Proxy(directory, changes or {}, behind))
        proxies[-1].wait()
        return proxies[-1]

    yield run
    with ExitStack() as stack:
        for proxy in proxies:
            stack.callback(proxy.stop)
    for proxy in proxies:
        assert "[crit]" not in (log := proxy.error_log.read_text()), log
        assert "Traceback" not in (log := proxy.service_log()), log


@pytest.fixture
def own_service(start: StartService, tmp_path: Path) -> Service:
    """A service of its own, for a test that stops it, or looks at its memory."""
    service = start(f"sqlite:///{tmp_path}/users.db", *UNDER_THE_PREFIX)
    service.wait().close()
    return service


def test_the_api_is_all_there_under_the_prefix(start_proxy: StartProxy) -> None:
    with start_proxy().client() as client:
        users = [
            add(client, {"name": f"User {n}", "email": f"user{n}@example.com"}) for n in range(5)
        ]

        listed: list[Any] = []
        page = client.get("/users?limit=2")
        while len(listed) < 10 and (following := page.links.get("next")):
            listed += page.json()
            page = client.get(page.url.join(following["url"]))
        listed += page.json()
        opened = [client.get(user.url.join(user.headers["location"])) for user in users]
        taken = client.post("/users", json={"name": "User", "email": "user3@example.com"})

        assert listed == [user.json() for user in users]
        assert [answer.json() for answer in opened] == listed
        assert taken.status_code == 409
        assert taken.headers["location"] == opened[3].url.path == "/api/users/4"
        assert client.get("/openapi.json").json()["servers"][0] == {"url": "/api"}


def test_a_user_is_changed_and_deleted_through_the_proxy(start_proxy: StartProxy) -> None:
    with start_proxy().client() as client:
        ada = add(client, ADA)
        address = ada.url.join(ada.headers["location"])
        tag = {"If-Match": ada.headers["etag"]}

        changed = client.patch(address, json={"name": "Ada King"}, headers=tag)
        again = client.patch(address, json={"name": "Lost"}, headers=tag)
        same = client.get(address, headers={"If-None-Match": changed.headers["etag"]})
        deleted = client.delete(address)

        assert changed.json()["name"] == "Ada King"
        assert [again.status_code, same.status_code, deleted.status_code] == [412, 304, 204]


def test_docs_tries_the_api_out_through_the_proxy(page: Page, start_proxy: StartProxy) -> None:
    proxy = start_proxy()
    browser = page.context.browser
    assert browser
    visitor = browser.new_page(ignore_https_errors=True)  # nobody vouches for the certificate
    problems: list[str] = []
    visitor.on("pageerror", lambda error: problems.append(str(error)))

    visitor.goto(f"https://127.0.0.1:{proxy.port}/api/")
    answer = execute(visitor, "read_users")

    assert visitor.url.startswith(f"https://127.0.0.1:{proxy.port}/api/docs")
    assert answer.split()[:2] == ["200", "Response"], answer
    assert problems == []


def test_plain_http_leads_to_the_same_address_in_https(start_proxy: StartProxy) -> None:
    proxy = start_proxy()
    address = f"http://127.0.0.1:{proxy.plain_port}/api/users?limit=1"

    answer = httpx.post(address, headers={"Host": "evil.example.com"}, timeout=30)

    assert answer.status_code == 308
    assert answer.headers["location"] == "https://users.example.com/api/users?limit=1"


def test_what_is_not_under_the_prefix_is_not_found(start_proxy: StartProxy) -> None:
    proxy = start_proxy()
    with proxy.client() as client:
        for path in ("/", "/users", "/docs", "/api/../users", "/apiusers"):
            answer = client.get(client.base_url.copy_with(raw_path=path.encode()))

            assert answer.status_code == 404, path
            assert answer.json() == {"detail": "Not Found"}

    assert '" 404' not in proxy.service_log()


@pytest.mark.parametrize(
    ("part", "count"),
    [(b"x" * MIB, 100), (b"X-Short: x\r\n" * (MIB // 12), 60)],
    ids=["one of 100 MB", "60 MB of short ones"],
)
def test_endless_headers_are_refused_and_nobody_waits_for_them(
    start_proxy: StartProxy, own_service: Service, part: bytes, count: int
) -> None:
    proxy = start_proxy(behind=own_service)
    before = memory(own_service)

    def send() -> bytes:
        with proxy.connect_tls() as connection:
            connection.sendall(b"GET /api/users HTTP/1.1\r\nHost: localhost\r\nX-Long: ")
            for _ in range(count):
                connection.sendall(part)
            return connection.recv(4096)

    with ThreadPoolExecutor() as executor, proxy.client() as client:
        senders = [executor.submit(send) for _ in range(3)]
        healthy = 0
        while healthy < 5 or not all(sender.done() for sender in senders):
            assert client.get("/health", timeout=1).status_code == 200
            healthy += 1

    assert all(sender.result().startswith(b"HTTP/1.1 400 ") for sender in senders)
    assert "/users" not in proxy.service_log()
    assert memory(own_service) - before < 5 * MIB


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        (None, {b"": 200}),
        (b"GET /api/health HTTP/1.1\r\nHost: local", {b"": 200}),
        (HALF_A_BODY, {b"": 100, b"429": 100}),  # more in progress than one client may have
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", {b"404": 200}),
    ],
    ids=["nothing", "half a header", "half a body", "one request"],
)
def test_200_clients_that_stop_keep_nobody_waiting_and_are_hung_up_on(
    start_proxy: StartProxy, sent: bytes | None, answers: dict[bytes, int]
) -> None:
    proxy = start_proxy(
        {
            "client_header_timeout 10s": "client_header_timeout 5s",
            "client_body_timeout 10s": "client_body_timeout 5s",
            "keepalive_timeout 30s": "keepalive_timeout 5s",
        }
    )
    silent = []
    for _ in range(200):
        silent.append(proxy.connect() if sent is None else proxy.connect_tls())
        silent[-1].sendall(sent or b"")

    with proxy.client() as client:
        for number in range(20):
            user = {"name": "Ada", "email": f"ada{number}@example.com"}
            assert client.post("/users", json=user, timeout=1).status_code == 201
    answered: Counter[bytes] = Counter()
    for connection in silent:
        with connection, connection.makefile("rb") as answer:
            answered[answer.read()[9:12]] += 1  # read() returns when nginx hangs up

    assert answered == answers


def test_a_client_that_asks_too_often_is_told_so_and_the_others_are_served(
    start_proxy: StartProxy,
) -> None:
    proxy = start_proxy({"rate=50r/s": "rate=1r/m", "burst=200": "burst=5"})
    with proxy.client(NEIGHBOUR) as neighbour, proxy.client() as client:
        answers = [neighbour.get("/health") for _ in range(10)]

        assert [answer.status_code for answer in answers] == [200] * 6 + [429] * 4
        assert answers[-1].json() == {"detail": "Too many requests"}
        assert answers[-1].headers["retry-after"] == "1"
        assert client.get("/health").status_code == 200


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
def test_a_body_too_long_is_refused_in_json_and_never_reaches_the_service(
    start_proxy: StartProxy, method: str
) -> None:
    proxy = start_proxy()
    body = b" " * 70_000
    with proxy.client() as client:
        ada = add(client, ADA)
        address = "/users" if method == "POST" else "/users/1"

        declared = client.request(method, address, content=body)
        chunked = client.request(method, address, content=iter([body]))

        for answer in (declared, chunked):
            assert answer.status_code == 413
            assert answer.json() == {"detail": "Content Too Large"}
        assert client.get("/users").json() == [ada.json()]

    assert '" 413' not in proxy.service_log()


def test_pages_that_are_read_slowly_arrive_whole(start_proxy: StartProxy, url: str) -> None:
    proxy = start_proxy({"proxy_buffers 16 16k": "proxy_buffers 3 4k"})  # the rest is in a file
    engine = sqlalchemy.create_engine(url)
    add_many(engine, 1000, "\U0001f9d1" * 100)
    engine.dispose()
    ask = b"GET /api/users?limit=1000 HTTP/1.1\r\nHost: localhost\r\n"
    count = 20  # 9 MB: more than the system keeps for a connection

    with proxy.connect_tls() as connection:
        connection.sendall((ask + b"\r\n") * (count - 1) + ask + b"Connection: close\r\n\r\n")
        time.sleep(1)
        with connection.makefile("rb") as answers:
            assert answers.read().count(b'"id":') == count * 1000


def test_while_the_service_is_away_the_answer_is_503(
    start_proxy: StartProxy, own_service: Service
) -> None:
    proxy = start_proxy(behind=own_service)
    own_service.stop()

    with proxy.client() as client:
        answer = client.get("/users")

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json() == {"detail": "The service does not answer"}


def test_the_service_logs_the_address_that_a_client_has_not_one_it_claims(
    start_proxy: StartProxy,
) -> None:
    proxy = start_proxy()

    with proxy.client(NEIGHBOUR) as neighbour:
        neighbour.get("/users", headers={"X-Forwarded-For": "10.9.8.7"})

    assert NEIGHBOUR in proxy.service_log()
    assert "10.9.8.7" not in proxy.service_log()
