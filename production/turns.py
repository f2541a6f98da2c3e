"""One turn for a request: how many of them use the database at the same time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from logging import getLogger
from typing import Any

from anyio import CancelScope, Semaphore, WouldBlock, move_on_after
from anyio.lowlevel import RunVar
from sqlalchemy.exc import DBAPIError, IllegalStateChangeError
from sqlalchemy.orm import Session
from starlette.requests import HTTPConnection, Request

from production import LOCK_TIMEOUT, tables
from production.dialects import dialect
from production.failures import NotReadyError, answer_to, is_mistake

logger = getLogger("uvicorn.error")
PLACES = {"read": dialect.readers, "write": dialect.writers, "stream": 20}
lines: RunVar[dict[str, Semaphore]] = RunVar("lines")  # of this event loop
# Asyncio's own threads may be full of somebody's slow work.
threads = ThreadPoolExecutor(thread_name_prefix="database")


class Turn:
    """What one request holds: its place in a line, and the sessions that it opened."""

    def __init__(self, line: str | None = None) -> None:
        """Wait in this line, or in none, as a web socket does."""
        self.line = line
        self.place: Semaphore | None = None
        self.sessions: list[Session] = []

    async def move_to(self, line: str) -> None:
        """Leave the line before, and wait in this one, without a thread.

        Raises NotReadyError after LOCK_TIMEOUT seconds.
        """
        try:
            places = lines.get()[line]
        except LookupError:
            lines.set({name: Semaphore(PLACES[name]) for name in PLACES})
            places = lines.get()[line]
        self.leave()
        try:
            places.acquire_nowait()
        except WouldBlock:
            with move_on_after(LOCK_TIMEOUT) as waiting:
                await places.acquire()
            if waiting.cancelled_caught:
                raise NotReadyError("no session became free") from None
        self.place = places

    def leave(self) -> None:
        """Let the next request have the place."""
        if self.place:
            self.place.release()
            self.place = None

    async def stream(self) -> None:
        """Go on without a turn. With a session, a stream has a line of its own."""
        if self.sessions:
            await self.move_to("stream")
        else:
            self.leave()

    async def end(self) -> None:
        """End what its sessions did not commit, and let the next request in."""
        try:
            for db in self.sessions:
                if db.new or (db.identity_map and (db.dirty or db.deleted)):
                    logger.warning("Not stored: changes that came with no db.commit()")
                if is_on_a_server(db):
                    await roll_back(db)
                elif db.identity_map:
                    db.rollback()
                elif db.in_transaction():  # no objects: the same for half the CPU
                    db.close()
        finally:
            self.leave()


async def in_thread(function: Callable[..., Any], *arguments: object) -> None:
    """Run what waits for the network, while the event loop goes on."""
    loop = asyncio.get_running_loop()
    with CancelScope(shield=True):  # nobody else may use the session meanwhile
        await loop.run_in_executor(threads, function, *arguments)


def is_on_a_server(db: Session) -> bool:
    """Tell whether the end of the session's transaction has to wait for a server."""
    return "on_a_server" in db.info and db.in_transaction()


async def roll_back(db: Session) -> None:
    """Roll back, without keeping the event loop waiting."""
    with suppress(DBAPIError):  # a server that has gone has forgotten it by itself
        await in_thread(db.rollback)


async def read_body(connection: HTTPConnection) -> None:
    """Read the body before the turn: a client that sends it slowly keeps nobody out."""
    if isinstance(connection, Request):
        with suppress(RuntimeError):  # FastAPI has read it, as a form
            await connection.body()


async def check_tables(db: Session) -> None:
    """See whether the tables are still those of this version, where the session is."""
    await in_thread(tables.check, db.info.get("engine") or db.get_bind())


def one_turn(
    get_db: Callable[[], AsyncIterator[Session]],
) -> Callable[[HTTPConnection], AsyncIterator[Session]]:
    """Let a request wait for its turn before `get_db` opens a session for it.

    One turn, however many sessions: else a request with two would wait for itself.
    The door ends it before the answer goes out. An outage is raised as the answer to
    it, so that a mounted app answers it, too.
    """
    open_session = asynccontextmanager(get_db)

    async def get_db_in_turn(connection: HTTPConnection) -> AsyncIterator[Session]:
        turn = connection.scope.get("turn") or Turn()
        try:
            if turn.line == "write":
                await read_body(connection)
            if turn.line and not turn.place:
                await turn.move_to(turn.line)
            async with open_session() as db:
                turn.sessions.append(db)
                try:
                    if not tables.known:
                        await check_tables(db)
                    yield db
                except Exception as error:
                    if is_mistake(error):  # unless the tables are behind, or were away
                        await check_tables(db)
                        if tables.was_away(error):
                            raise NotReadyError("a table was away") from error
                    raise
                finally:
                    if is_on_a_server(db):
                        await roll_back(db)
        except IllegalStateChangeError as error:
            stop = error.__context__
            # uvicorn stops, and the thread of this request still connects.
            if isinstance(stop, asyncio.CancelledError):
                raise stop from None
            raise
        except Exception as error:
            if answer := answer_to(error):
                raise answer from error
            raise

    return get_db_in_turn
