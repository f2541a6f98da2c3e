"""What somebody adds to a copy of the project has what the service's own endpoints have."""

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import httpx
import pytest

from helpers import (
    ADA,
    GRACE,
    add,
    alembic,
    append,
    assert_unavailable,
    at_once,
    logged,
    replace,
    sql,
)
from postgres import Postgres
from service import Service, StartService

pytestmark = pytest.mark.slow

PHOTO = '''

class Photo(Base):
    """A photo."""

    __tablename__ = "photos"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(100))
'''

LESSON_6 = """
from models import Photo


@app.get("/photos/")
def read_photos(db: Session = Depends(get_db)):
    photos = db.query(Photo).all()
    return photos
"""
ROUTER = """
from fastapi import APIRouter

router = APIRouter(prefix="/routed")


@router.get("/photos/")
def read_routed_photos(db: Session = Depends(get_db)):
    photos = db.query(Photo).all()
    return photos


app.include_router(router)
"""
PHOTOS = [
    {"id": 1, "title": "Sunrise", "version": 1},
    {"id": 2, "title": "Sunset", "version": 1},
]

METHODS = ["GET", "POST"]
# The mistakes of changes.py, and what the log says then.
MISTAKES = {
    "column": "nmae",
    "join": "missing FROM-clause entry|no such column: users.name",
    "syntax": "syntax error",
    "table": "photos",
    "null": "NotNullViolation|NOT NULL constraint",
    "python": "ZeroDivisionError",
}


def add_photos(project: Path, url: str, endpoint: str) -> None:
    """Do what somebody would who adds a resource: model, endpoint, the step to its table."""
    append(project / "models.py", PHOTO)
    append(project / "main.py", endpoint)
    alembic(url, "upgrade", "head", cwd=project)
    alembic(url, "revision", "--autogenerate", "-m", "photos", cwd=project)
    alembic(url, "upgrade", "head", cwd=project)
    sql(url, *(f"INSERT INTO photos (title) VALUES ('{photo['title']}')" for photo in PHOTOS))


@pytest.fixture(scope="module")
def added_url(create_database: Callable[[], str]) -> str:
    """The database of the service that most of these tests share."""
    return create_database()


@pytest.fixture(scope="module")
def added(_start: StartService, added_url: str) -> Iterator[Service]:
    """A service with endpoints that change users, and with endpoints that fail."""
    service = _start(added_url, "--app-dir", "tests", app="second_day.changes:app")
    service.wait().close()
    yield service
    service.kill()


@pytest.fixture
def mistaken(added: Service, added_url: str) -> Service:
    """That service without users, for a test that makes it print tracebacks."""
    sql(added_url, "DELETE FROM users")
    return added


@pytest.fixture
def client(mistaken: Service) -> Iterator[httpx.Client]:
    """A client of that service for a test in which it prints no traceback."""
    seen = len(mistaken.log.read_text())
    with mistaken.client() as client:
        yield client
    assert "Traceback" not in (log := mistaken.log.read_text()[seen:]), log


@pytest.fixture
def start_mistaken(_start: StartService) -> Iterator[StartService]:
    """Start services that print tracebacks, as they should for a mistake in the code."""
    started: list[Service] = []

    def start(database_url: str, *options: str, cwd: Path) -> Service:
        started.append(_start(database_url, *options, cwd=cwd))
        return started[-1]

    yield start
    for service in started:
        service.stop()


def assert_mistake(answer: httpx.Response) -> None:
    assert answer.status_code == 500
    assert answer.json() == {"detail": "Internal Server Error"}
    assert "retry-after" not in answer.headers


def test_an_endpoint_as_in_lesson_6_answers_everybody_or_those_with_the_token(
    start: StartService, new_database: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_photos(project, new_database, LESSON_6 + ROUTER)
    addresses = ["/photos/", "/routed/photos/"]

    service = start(new_database, cwd=project)
    service.wait().close()
    for address in addresses:
        with service.client() as client:
            answers = at_once([partial(client.get, address)] * 40)
            head = client.head(address)

        assert [answer.status_code for answer in answers] == [200] * 40
        assert all(answer.json() == PHOTOS for answer in answers)
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) == len(answers[0].content)

    monkeypatch.setenv("API_TOKEN", "secret")
    with start(new_database, cwd=project).wait() as client:
        for address in addresses:
            refused = [client.get(address), client.head(address)]
            wrong = client.get(address, headers={"Authorization": "Bearer wrong"})
            allowed = client.get(address, headers={"Authorization": "Bearer secret"})

            assert [answer.status_code for answer in [*refused, wrong]] == [401] * 3
            assert wrong.headers["www-authenticate"] == "Bearer"
            assert allowed.json() == PHOTOS


def test_an_endpoint_as_in_lesson_6_says_503_while_the_database_is_away(
    start: StartService, postgres: Postgres, project: Path
) -> None:
    add_photos(project, postgres.url(), LESSON_6)

    with start(postgres.url(), cwd=project).wait() as client:
        before = client.get("/photos/")
        postgres.stop()
        away = client.get("/photos/")
        postgres.start()
        again = client.get("/photos/")

    assert_unavailable(away)
    assert before.json() == again.json() == PHOTOS


@pytest.mark.parametrize("endpoint", ["rename", "update"])
def test_a_change_by_an_added_endpoint_gives_the_user_a_new_tag(
    client: httpx.Client, endpoint: str
) -> None:
    created = add(client, ADA)
    address = created.headers["location"]

    renamed = client.post(f"/{endpoint}/{created.json()['id']}?name=Renamed")

    assert renamed.status_code == 200
    read = client.get(address)
    assert read.json()["name"] == "Renamed"
    assert read.headers["etag"] != created.headers["etag"]
    stale = {"If-Match": created.headers["etag"]}
    assert client.patch(address, json={"name": "X"}, headers=stale).status_code == 412


@pytest.mark.parametrize("other", ["the same service", "another process"])
def test_an_added_endpoint_cannot_overwrite_what_changed_after_it_read(
    client: httpx.Client, start: StartService, added_url: str, other: str
) -> None:
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        second = client
        if other == "another process":
            second = stack.enter_context(start(added_url).wait())
        ada = add(client, ADA)
        address = ada.headers["location"]
        slow = pool.submit(client.post, f"/rename/{ada.json()['id']}?name=Slow&seconds=1.5")
        time.sleep(0.5)

        change = second.patch(address, json={"email": "new@example.com"})

        assert change.status_code == 200
        kept = client.get(address)
        assert slow.result().status_code == 409
        assert slow.result().json()["detail"]
        assert kept.json() == ada.json() | {"email": "new@example.com"}
        assert kept.headers["etag"] == '"2"'


def test_many_added_writes_at_once_are_200_or_409_and_each_200_is_counted(
    client: httpx.Client,
) -> None:
    ada = add(client, ADA)
    rename = f"/rename/{ada.json()['id']}?seconds=0.05&name="

    writes = [partial(client.post, f"{rename}{n}") for n in range(24)]
    statuses = [answer.status_code for answer in at_once(writes)]

    assert set(statuses) <= {200, 409}
    read = client.get(ada.headers["location"])
    assert read.headers["etag"] == f'"{1 + statuses.count(200)}"'


def test_a_mistake_in_an_added_endpoint_is_500_with_its_traceback_and_disturbs_nobody(
    mistaken: Service,
) -> None:
    with mistaken.client() as client:
        for name, telling in MISTAKES.items():
            seen = len(mistaken.log.read_text())

            asks = [partial(client.request, method, f"/mistakes/{name}") for method in METHODS]
            answers = at_once(asks * 10)  # more of each than there are connections

            for answer in answers:
                assert_mistake(answer)
            log = logged(mistaken.log, "Exception in ASGI application", seen, times=len(answers))
            assert re.search(telling, log)
            assert "secret@example.com" not in log  # which PostgreSQL adds as DETAIL
            assert client.get("/users").json() == []
            assert client.get("/health").status_code == 200
        add(client, ADA)


def test_a_misspelt_column_in_the_models_is_500_and_not_503(
    start_mistaken: StartService, new_database: str, project: Path
) -> None:
    alembic(new_database, "upgrade", "head")
    replace(
        project / "models.py", "mapped_column(String(100))", 'mapped_column("nmae", String(100))'
    )
    service = start_mistaken(new_database, cwd=project)
    with service.wait() as client:
        questions: list[Callable[[], httpx.Response]] = [
            lambda: client.get("/users"),
            lambda: client.get("/users/1"),
            lambda: client.post("/users", json=ADA),
            lambda: client.patch("/users/1", json={"name": "X"}),
        ]
        for ask in questions:
            seen = len(service.log.read_text())

            assert_mistake(ask())

            assert "nmae" in logged(service.log, "Traceback", seen)


def test_an_added_endpoint_that_fails_half_way_stores_nothing(
    mistaken: Service,
) -> None:
    seen = len(mistaken.log.read_text())
    with mistaken.client() as client:
        for _ in range(15):  # more often than there are connections
            assert_mistake(client.post("/half-way"))

        logged(mistaken.log, "Exception in ASGI application", seen, times=15)
        assert client.get("/users").json() == []
        assert add(client, ADA | {"email": "ghost@example.com"}).headers["etag"] == '"1"'


FILTER = """
    name: Name | MISSING = Field(MISSING, description="Only users with this name")


class UserCreate("""
# A boolean and a date, as docs/another-resource.md adds them.
COLUMNS = """
    active: Mapped[bool] = mapped_column(server_default=text("true"))
    since: Mapped[date | None]
"""
FIELDS = """
    active: bool
    since: date | None
"""


def test_filters_are_combined_and_the_link_to_the_next_page_repeats_them(
    start: StartService, new_database: str, project: Path
) -> None:
    replace(project / "schemas.py", "\n\nclass UserCreate(", FILTER)
    with start(new_database, cwd=project).wait() as client:
        for number in range(4):
            name = "Ada & Co" if number % 2 else "Grace"
            add(client, {"name": name, "email": f"user{number}@example.com"})

        page = client.get("/users", params={"limit": 1, "name": "Ada & Co"})
        assert [user["id"] for user in page.json()] == [2]
        second = client.get(page.url.join(page.links["next"]["url"]))
        assert [user["id"] for user in second.json()] == [4]
        assert "link" not in second.headers
        both = {"name": "Ada & Co", "email": "user0@example.com"}
        assert client.get("/users", params=both).json() == []
        assert len(client.get("/users", params=both | {"email": "user1@example.com"}).json()) == 1


def test_a_boolean_and_a_date_of_a_user_are_the_same_in_the_list_and_alone(
    start: StartService, new_database: str, project: Path
) -> None:
    append(project / "models.py", COLUMNS)
    append(project / "schemas.py", FIELDS)
    for file in ("models.py", "schemas.py"):
        replace(
            project / file,
            "\nfrom typing import",
            "\nfrom datetime import date\nfrom typing import",
        )
    alembic(new_database, "upgrade", "head", cwd=project)
    alembic(new_database, "revision", "--autogenerate", "-m", "more", cwd=project)
    alembic(new_database, "upgrade", "head", cwd=project)
    with start(new_database, cwd=project).wait() as client:
        add(client, ADA)
        add(client, GRACE)
        sql(new_database, "UPDATE users SET active = false, since = '2026-11-25' WHERE id = 2")

        ada, grace = client.get("/users").json()
        assert (
            ada == {"id": 1, **ADA, "active": True, "since": None} == client.get("/users/1").json()
        )
        assert (grace["active"], grace["since"]) == (False, "2026-11-25")
        assert grace == client.get("/users/2").json()
