"""What somebody adds on the second day, each as the libraries' own pages write it."""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import anyio
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Depends,
    FastAPI,
    Header,
    HTTPException,
    WebSocket,
    WebSocketDisconnect,
)
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse
from sqlalchemy import insert, literal, select, text
from sqlalchemy.orm import Session
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from database import SessionLocal, get_db
from main import app
from models import User
from production.http.access import OPEN
from production.settings import LOCK_TIMEOUT
from second_day.photos import router
from second_day.visits import Visit

app.include_router(router)


# A login: a dependency with the session of the request.


def current_user(x_user: Annotated[str, Header()], db: Session = Depends(get_db)) -> User:
    user = db.query(User).filter(User.email == x_user).first()
    if user is None:
        raise HTTPException(401, "Who are you?")
    return user


def last_seen(db: Session = Depends(get_db, scope="function")) -> int:
    return db.query(User).count()


def uncached(db: Session = Depends(get_db, use_cache=False)) -> int:
    return db.query(User).count()


CurrentUser = Annotated[User, Depends(current_user)]


@app.get("/me")
def read_me(user: CurrentUser, db: Session = Depends(get_db)) -> dict[str, Any]:
    return {"name": user.name, "users": db.query(User).count()}


@app.post("/me/visits")
def add_visit(user: CurrentUser, db: Session = Depends(get_db)) -> dict[str, int]:
    visit = Visit(page=user.email)
    db.add(visit)
    db.commit()
    db.refresh(visit)
    return {"id": visit.id}


@app.get("/me/mixed")
async def read_mixed(
    user: CurrentUser,
    seen: Annotated[int, Depends(last_seen)],
    other: Annotated[int, Depends(uncached)],
    db: Session = Depends(get_db, use_cache=False),
) -> list[Any]:
    return [user.name, seen, other, db.query(User).count()]


# A GET that writes, and does not commit.


@app.get("/visit")
def visit_and_refuse(db: Session = Depends(get_db)) -> None:
    db.add(Visit(page="flushed"))
    db.flush()
    raise HTTPException(418)


@app.get("/visit/text")
def visit_by_text(db: Session = Depends(get_db)) -> None:
    db.execute(text("INSERT INTO visits (page) VALUES ('text')"))


@app.get("/visit/savepoint")
def visit_in_a_savepoint(commit: bool = False, db: Session = Depends(get_db)) -> None:
    with db.begin_nested():
        db.add(Visit(page="inner"))
    try:
        with db.begin_nested():
            db.add(Visit(page="undone"))
            db.flush()
            raise RuntimeError("undo")
    except RuntimeError:
        pass
    if commit:
        db.commit()


@app.get("/visit/cte")
def visit_by_cte(db: Session = Depends(get_db)) -> None:
    if db.get_bind().dialect.name == "postgresql":
        added = insert(Visit).values(page="cte").returning(Visit.id).cte("added")
        db.execute(select(added.c.id)).all()
    else:
        page = select(literal("cte").label("page")).cte("page")
        db.execute(insert(Visit).from_select(["page"], select(page.c.page)))


@app.get("/visit/function")
def visit_by_function(db: Session = Depends(get_db)) -> None:
    if db.get_bind().dialect.name == "postgresql":
        db.execute(text("SELECT visit()")).all()


@app.get("/visit/half")
def visit_half(db: Session = Depends(get_db)) -> None:
    db.add(Visit(page="one"))
    db.flush()
    db.add(Visit(page=None))
    db.commit()


@app.get("/visit/stored")
def visit_and_commit(db: Session = Depends(get_db)) -> None:
    db.add(Visit(page="stored"))
    db.commit()


# Streams.


@app.get("/export")
def export(wait: float = 0, pad: int = 0, db: Session = Depends(get_db)) -> StreamingResponse:
    def lines() -> Iterator[str]:
        for user in db.scalars(select(User).order_by(User.id).execution_options(yield_per=10)):
            time.sleep(wait)
            yield f"{user.email:{pad}}\n"

    return StreamingResponse(lines(), media_type="text/plain")


@app.get("/lines")
def read_lines(wait: float = 0, db: Session = Depends(get_db)) -> Iterable[dict[str, str]]:
    for user in db.scalars(select(User).order_by(User.id)):
        time.sleep(wait)
        yield {"email": user.email}


@app.get("/lines/async")
async def read_lines_async(db: Session = Depends(get_db)) -> AsyncIterable[dict[str, str]]:
    for user in db.scalars(select(User).order_by(User.id)):
        yield {"email": user.email}


@app.get("/events", response_class=EventSourceResponse)
def read_events(times: int = 3, db: Session = Depends(get_db)) -> Iterable[dict[str, int]]:
    for _ in range(times):
        yield {"users": db.query(User).count()}
        time.sleep(0.05)


@app.get("/watch")
def watch(db: Session = Depends(get_db)) -> StreamingResponse:
    async def events() -> AsyncIterator[str]:
        while True:
            yield f"data: {db.query(User).count()}\n\n"
            await anyio.sleep(0.5)

    return StreamingResponse(events(), media_type="text/event-stream")


# Background tasks, and a web socket.


def write_visit(db: Session, page: str) -> None:
    db.add(Visit(page=page))
    time.sleep(0.3)
    db.commit()


def rename(db: Session, user: User) -> None:
    user.name = f"{user.name} was here"
    db.commit()


@app.post("/later")
def write_later(tasks: BackgroundTasks, db: Session = Depends(get_db)) -> dict[str, str]:
    db.query(User).first()
    tasks.add_task(write_visit, db, "later")
    return {"status": "soon"}


@app.post("/later/{user_id}")
def rename_later(
    user_id: int, tasks: BackgroundTasks, db: Session = Depends(get_db)
) -> dict[str, str]:
    user = db.get_one(User, user_id)
    tasks.add_task(rename, db, user)
    return {"status": "soon"}


@app.websocket("/ws")
async def count_users(websocket: WebSocket, db: Session = Depends(get_db)) -> None:
    await websocket.accept()
    try:
        while True:
            page = await websocket.receive_text()
            db.add(Visit(page=page))
            db.commit()
            await websocket.send_json({"users": db.query(User).count()})
    except WebSocketDisconnect:
        pass


# A job in a thread of its own, which only reads.


@app.post("/report")
def report(tasks: BackgroundTasks) -> None:
    def job() -> None:
        with SessionLocal() as db:
            db.query(User).count()
            db.execute(text("SELECT count(*) FROM users")).scalar()
            time.sleep(LOCK_TIMEOUT + 2)  # longer than a writer would wait
            db.query(User).count()

    tasks.add_task(job)


@app.get("/count")
async def count(wait: float = 0, db: Session = Depends(get_db)) -> int:
    found = db.query(User).count()
    await anyio.sleep(wait)
    return found


# A body that the endpoint reads itself, and a limit of time.


@app.post("/hook")
async def take_hook(request: Request, db: Session = Depends(get_db)) -> dict[str, int]:
    return {"bytes": len(await request.body()), "users": db.query(User).count()}


class TimeLimit:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") != "/limited":
            await self.app(scope, receive, send)
            return
        try:
            with anyio.fail_after(0.2):
                await self.app(scope, receive, send)
        except TimeoutError:
            await PlainTextResponse("too slow", 504)(scope, receive, send)


app.add_middleware(TimeLimit)


@app.get("/limited")
async def take_too_long(db: Session = Depends(get_db)) -> None:
    db.query(User).count()
    await anyio.sleep(1)


# A write in the event loop, which keeps its lock while others have their turn.


@app.get("/visit/async")
async def visit_async(db: Session = Depends(get_db)) -> None:
    db.add(Visit(page="async"))
    db.flush()
    await anyio.sleep(0.1)
    db.commit()


# Slow work, in asyncio's own threads.


@app.get("/slow")
async def be_slow() -> None:
    await asyncio.to_thread(time.sleep, 1)


# Apps of other makers.


@app.get("/timeout")
def time_out(db: Session = Depends(get_db)) -> None:
    db.query(User).count()
    raise TimeoutError("somebody else's")


mounted = FastAPI()


@mounted.get("/users")
def read_mounted(db: Session = Depends(get_db)) -> list[str]:
    return [user.name for user in db.query(User).all()]


app.mount("/mounted", mounted)


async def metrics(request: Request) -> Response:
    return PlainTextResponse("users_total 1")


app.add_route("/metrics", metrics)
app.mount("/admin", Starlette(routes=[Route("/", metrics)]))


# The start and the end.


@asynccontextmanager
async def keep_a_cache(app: FastAPI) -> AsyncIterator[dict[str, str]]:
    yield {"cache": "warm"}


cached = APIRouter(lifespan=keep_a_cache)


@cached.get("/cache")
def read_cache(request: Request, db: Session = Depends(get_db)) -> str:
    return f"{request.state.cache}, {db.query(User).count()} users"


app.include_router(cached)


@app.on_event("startup")
def start_as_before_there_was_a_lifespan() -> None:
    raise AssertionError("FastAPI does not run this")


# An admin page with a login of its own.


async def log_in(request: Request) -> Response:
    return PlainTextResponse("Who are you?", 401, {"WWW-Authenticate": "Basic"})


app.mount("/console", Starlette(routes=[Route("/", log_in)]))
OPEN.append("/console/*")
