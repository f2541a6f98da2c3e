"""The eight lessons, as promises: each test fails when its lesson is broken in the code."""

import json
import re
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import httpx
import sqlalchemy

from conftest import ROOT, StartService
from test_users import ADA, GRACE, add, add_many


def test_lesson_1_a_connection_is_checked_before_it_is_used(python: Callable[[str], str]) -> None:
    assert (
        python("""
from sqlalchemy import text
from database import SessionLocal
with SessionLocal() as db:
    waiting = db.connection().connection.driver_connection
waiting.close()  # what the restart of a database does to a connection in the pool
with SessionLocal() as db:
    print(db.scalar(text("SELECT 'well'")))
""")
        == "well"
    )


def test_lesson_2_sessions_keep_people_out_of_each_others_way(client: httpx.Client) -> None:
    address = add(client, ADA).headers["location"]
    both_saw = client.get(address).headers["etag"]
    one = client.patch(address, json={"name": "One"}, headers={"If-Match": both_saw})
    other = client.patch(address, json={"name": "Other"}, headers={"If-Match": both_saw})
    assert (one.status_code, other.status_code) == (200, 412)
    assert client.get(address).json()["name"] == "One"


def test_lesson_3_session_local_makes_sessions_that_wait_for_their_commit(
    python: Callable[[str], str],
) -> None:
    assert python("""
from sqlalchemy import func, select
from database import SessionLocal, engine, upgrade
from models import User
upgrade()
count = select(func.count()).select_from(User)
with SessionLocal() as db, SessionLocal() as another:
    print(db.get_bind() is engine)
    db.add(User(name="Ada", email="ada@example.com"))
    print(db.scalar(count))  # autoflush=False: a query does not send the draft
    db.flush()
    print(db.scalar(count), another.scalar(count))  # autocommit=False: nobody else sees it
    db.commit()
    print(another.scalar(count))
""").split() == ["True", "0", "1", "0", "1"]


def test_lesson_4_all_that_was_checked_is_stored_and_nothing_else(
    client: httpx.Client, database: sqlalchemy.Engine
) -> None:
    def stored() -> list[tuple[str, str]]:
        with database.connect() as connection:
            rows = connection.execute(sqlalchemy.text("SELECT name, email FROM users ORDER BY id"))
            return [(row.name, row.email) for row in rows]

    ada = add(client, ADA)
    assert stored() == [("Ada Lovelace", "ada@example.com")]
    grace = add(client, GRACE)
    taken = {"name": "Changed", "email": ADA["email"]}
    assert client.patch(grace.headers["location"], json=taken).status_code == 409
    assert client.post("/users", json={"name": "\x00", "email": "x@example.com"}).is_error
    assert stored() == [("Ada Lovelace", "ada@example.com"), ("Grace Hopper", "grace@example.com")]
    client.patch(ada.headers["location"], json={"name": "Ada King"})
    client.delete(grace.headers["location"])
    assert stored() == [("Ada King", "ada@example.com")]


def test_lesson_5_get_db_closes_what_it_opened_whatever_happens(
    python: Callable[[str], str],
) -> None:
    assert python("""
from sqlalchemy import text
from database import engine, get_db
for ending in (None, RuntimeError("the endpoint failed")):
    dependency = get_db()
    db = next(dependency)
    db.execute(text("SELECT 1"))
    print(engine.pool.checkedout())
    try:
        dependency.throw(ending) if ending else next(dependency)
    except (StopIteration, RuntimeError):
        print(engine.pool.checkedout())
""").split() == ["1", "0", "1", "0"]


def test_lesson_5_a_client_that_does_not_read_its_answer_holds_no_session(
    start: StartService, new_database: str
) -> None:
    service = start(new_database)
    request = b"GET /users?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with closing(service.wait()) as client, ExitStack() as stack:
        engine = sqlalchemy.create_engine(new_database)
        add_many(engine, 1000, name="x" * 100)
        engine.dispose()
        for _ in range(20):
            idle = stack.enter_context(closing(socket.socket()))
            idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            idle.connect((client.base_url.host, client.base_url.port))
            idle.sendall(request * 100)  # and never reads an answer
        for _ in range(50):
            assert client.get("/users?limit=1", timeout=5).status_code == 200
        assert client.post("/users", json=ADA, timeout=5).status_code == 201
        # Stopped before the sockets close: uvicorn would print a traceback for each request that
        # still waits in a connection that is gone.
        service.stop(signal.SIGKILL)


def test_lesson_6_the_list_is_what_the_database_holds_as_json(
    client: httpx.Client, database: sqlalchemy.Engine
) -> None:
    add_many(database, 3)
    with database.connect() as connection:
        rows = connection.execute(sqlalchemy.text("SELECT id, name, email FROM users ORDER BY id"))
        expected = [dict(row._mapping) for row in rows]
    assert json.loads(client.get("/users").content) == expected
    parameter = re.search(r"def read_users\(.*db: (\w+)", (ROOT / "main.py").read_text())
    assert parameter
    assert (
        f"{parameter[1]} = Annotated[Session, Depends(get_db" in (ROOT / "database.py").read_text()
    )


def test_lesson_7_requests_at_the_same_time_see_only_their_own_data(client: httpx.Client) -> None:
    def live(number: int) -> None:
        user = {"name": f"User {number}", "email": f"user{number}@example.com"}
        created = client.post("/users", json=user)
        assert created.status_code == 201
        expected, address = created.json(), created.headers["location"]
        assert expected == {"id": expected["id"], **user}
        for step in range(5):
            assert client.get(address).json() == expected
            expected["name"] = f"User {number} step {step}"
            assert client.patch(address, json={"name": expected["name"]}).json() == expected
        assert client.delete(address).status_code == 204
        assert client.get(address).status_code == 404

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(live, range(48)))


def test_lesson_8_the_course_command_runs_the_service_and_reloads_a_change(
    start: StartService, new_database: str, project: Path
) -> None:
    service = start(new_database, "--reload", cwd=project)
    with closing(service.wait()) as client:
        assert client.get("/users").content == b"[]"
        main = project / "main.py"
        main.write_text(main.read_text().replace('title="Users"', 'title="Changed"'))
        deadline = time.monotonic() + 20
        title = ""
        while title != "Changed" and time.monotonic() < deadline:
            time.sleep(0.1)
            with suppress(httpx.TransportError):  # between two processes
                title = httpx.get(f"{service.url}/openapi.json").json()["info"]["title"]
        assert title == "Changed"
        assert httpx.get(f"{service.url}/users").content == b"[]"
