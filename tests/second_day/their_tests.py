"""Tests as FastAPI's pages on testing, and SQLModel's, write them."""

import asyncio
import os
from collections.abc import Iterator

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, StaticPool, create_engine
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.schema import CreateSchema

from database import get_db
from main import app
from models import Base

ADA = {"name": "Ada Lovelace", "email": "ada@example.com"}


@pytest.fixture
def test_engine() -> Iterator[Engine]:
    """A database of its own: in memory, or on the server of TEST_DATABASE_URL."""
    url = os.environ.get("TEST_DATABASE_URL", "sqlite:")
    if url.startswith("sqlite:"):
        engine = create_engine(
            "sqlite://", connect_args={"check_same_thread": False}, poolclass=StaticPool
        )
    else:
        engine = create_engine(url, execution_options={"schema_translate_map": {None: "theirs"}})
        with engine.begin() as connection:
            connection.execute(CreateSchema("theirs", if_not_exists=True))
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def override(test_engine: Engine) -> Iterator[None]:
    testing = sessionmaker(autocommit=False, autoflush=False, bind=test_engine)

    def override_get_db() -> Iterator[Session]:
        db = testing()
        try:
            yield db
        finally:
            db.close()

    app.dependency_overrides[get_db] = override_get_db
    yield
    app.dependency_overrides.clear()


def use(client: TestClient) -> None:
    assert client.get("/users").json() == []
    created = client.post("/users", json=ADA)
    assert created.json() == {"id": 1, **ADA}
    assert client.post("/users", json=ADA).status_code == 409
    assert client.get("/users/1", headers={"If-None-Match": '"1"'}).status_code == 304
    assert client.get(f"/users?email={ADA['email']}").json() == [{"id": 1, **ADA}]
    assert client.patch("/users/1", json={"name": "Ada King"}).headers["etag"] == '"2"'
    assert client.get("/health").json() == {"status": "ok"}
    assert client.delete("/users/1").status_code == 204
    assert client.get("/users/1").status_code == 404
    assert client.get("/users").json() == []


@pytest.mark.usefixtures("override")
def test_a_client_without_the_lifespan() -> None:
    use(TestClient(app))


@pytest.mark.usefixtures("override")
@pytest.mark.parametrize("again", range(2))
def test_a_client_with_the_lifespan(again: int) -> None:
    with TestClient(app) as client:
        use(client)


@pytest.mark.usefixtures("override")
@pytest.mark.anyio
async def test_an_async_client() -> None:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answers = await asyncio.gather(*(client.get("/users") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("loop", range(3))
def test_many_requests_at_once_in_another_event_loop(loop: int) -> None:
    async def ask() -> set[int]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answers = await asyncio.gather(*(client.get("/users") for _ in range(30)))
        return {answer.status_code for answer in answers}

    assert asyncio.run(ask()) == {200}
