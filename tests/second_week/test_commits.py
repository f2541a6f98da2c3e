"""Nothing is acknowledged that is not stored.

What is added stands in `commits.py`, beside this file.
"""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from helpers import ADA, VISITS, add, logged, make_tables, sql
from service import Service, StartService

pytestmark = pytest.mark.slow

WRITES = ["add", "flush", "text", "many", "change", "object", "remove", "savepoint"]
FINE = ["read", "savepoint", "rollback", "conflict", "nobody", "rows", "advisory", "local"]
METHODS = ["POST", "PUT", "PATCH", "DELETE"]
SCOPE = 'scope="function"'
Stored = tuple[list[str], list[str]]  # the visits, and the names of the users
UNTOUCHED: Stored = ([], [ADA["name"]])
WRITTEN: dict[str, Stored] = {
    "add": (["lost"], [ADA["name"]]),
    "flush": (["lost"], [ADA["name"]]),
    "change": ([], ["Lost"]),
    "remove": ([], []),
}


@pytest.fixture(scope="module")
def service(_start: StartService, url: str) -> Iterator[Service]:
    service = _start(url, "--app-dir", "tests", app="second_week.commits:app")
    service.wait().close()
    make_tables(url, VISITS)
    yield service
    service.kill()


@pytest.fixture
def log(service: Service) -> Path:
    return service.log


@pytest.fixture
def client(service: Service, url: str) -> Iterator[httpx.Client]:
    """A client of that service, which has Ada and no visits."""
    sql(url, "DELETE FROM users", "DELETE FROM visits")
    with service.client() as client:
        add(client, ADA)
        yield client


def stored(url: str) -> Stored:
    """Return the visits and the names of users that are stored."""
    visits = sql(url, "SELECT page FROM visits ORDER BY id")
    names = sql(url, "SELECT name FROM users")
    return [page for (page,) in visits], [name for (name,) in names]


def assert_refused(answer: httpx.Response, log: Path, seen: int) -> None:
    """Assert a 500, and that the log says what to do."""
    assert answer.status_code == 500, answer.text
    assert answer.json() == {"detail": "Internal Server Error"}
    assert "commit" in logged(log, SCOPE, seen)


def said(log: Path, seen: int) -> list[str]:
    """Return what the log says of sessions since then."""
    lines = log.read_text()[seen:].splitlines()
    return [line for line in lines if line and " HTTP/1.1" not in line]


@pytest.mark.parametrize("how", WRITTEN)
@pytest.mark.parametrize("dependency", ["after", "before"])
def test_a_dependency_that_commits_after_its_yield_stores_in_time_or_the_answer_is_500(
    client: httpx.Client, url: str, log: Path, dependency: str, how: str
) -> None:
    seen = len(log.read_text())

    assert_refused(client.post(f"/{dependency}/{how}"), log, seen)

    assert stored(url) == UNTOUCHED
    assert client.post(f"/{dependency}/{how}/function").status_code == 200
    assert stored(url) == WRITTEN[how]


@pytest.mark.parametrize("how", WRITES)
def test_a_write_without_a_commit_is_500_and_the_log_says_what_to_do(
    client: httpx.Client, url: str, log: Path, how: str
) -> None:
    for method in METHODS:
        seen = len(log.read_text())
        assert_refused(client.request(method, f"/forgotten/{how}"), log, seen)
    seen = len(log.read_text())
    assert_refused(client.post(f"/forgotten/{how}/async"), log, seen)

    assert stored(url) == UNTOUCHED


@pytest.mark.parametrize("how", WRITES)
def test_a_write_after_the_last_commit_is_500(
    client: httpx.Client, url: str, log: Path, how: str
) -> None:
    seen = len(log.read_text())

    assert_refused(client.post(f"/forgotten/{how}/half"), log, seen)

    assert stored(url) == (["kept"], [ADA["name"]])


@pytest.mark.parametrize("how", WRITES)
def test_a_get_or_a_stream_with_a_write_that_is_not_committed_is_200_and_in_the_log(
    client: httpx.Client, url: str, log: Path, how: str
) -> None:
    seen = len(log.read_text())
    assert client.get(f"/forgotten/{how}").status_code == 200
    logged(log, "commit", seen)

    for method in ("GET", "POST"):
        seen = len(log.read_text())
        answer = client.request(method, f"/stream/{how}")
        assert (answer.status_code, answer.text) == (200, "begun\nended\n")
        logged(log, "commit", seen)

    assert stored(url) == UNTOUCHED


def test_a_refusal_or_a_failure_rolls_back_in_silence(
    client: httpx.Client, url: str, log: Path
) -> None:
    seen = len(log.read_text())
    for how in WRITES:
        for status in (404, 409, 502):
            for method in ("GET", *METHODS):
                answer = client.request(method, f"/forgotten/{how}?status={status}")
                assert answer.status_code == status, answer.text
    assert client.get("/forgotten/flush").status_code == 200

    logged(log, "commit", seen)
    assert len(said(log, seen)) == 1  # of the last one
    assert stored(url) == UNTOUCHED


@pytest.mark.parametrize("how", FINE)
def test_who_has_nothing_to_commit_is_answered_200_in_silence(
    client: httpx.Client, url: str, log: Path, how: str
) -> None:
    seen = len(log.read_text())

    for method in METHODS:
        answer = client.request(method, f"/fine/{how}")
        assert (answer.status_code, answer.text) == (200, f'"{how}"')

    assert said(log, seen) == []
    assert stored(url) == UNTOUCHED
    assert client.post("/fine/keep").status_code == 200
    assert stored(url) == (["kept"], [ADA["name"]])
