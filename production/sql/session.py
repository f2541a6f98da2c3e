"""The life of a request's session: from its permit to the end of its transaction."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from logging import getLogger
from typing import Any

from anyio import CancelScope
from anyio.lowlevel import RunVar
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, IllegalStateChangeError
from sqlalchemy.orm import Session
from starlette.requests import HTTPConnection, Request

from production.sql.databases import primary
from production.sql.errors import answer_to, is_mistake, outages
from production.sql.limits import Limit, make_limits
from production.sql.tables import tables

logger = getLogger("uvicorn.error")
UNCOMMITTED = (
    "Not stored: %s wrote with no db.commit() before its answer. A dependency that "
    'commits after its yield needs Depends(..., scope="function")'
)
limits: RunVar[dict[str, Limit]] = RunVar("limits")  # of this event loop
# Asyncio's own threads may be full of somebody's slow work.
threads = ThreadPoolExecutor(thread_name_prefix="database")


class DatabaseUse:
    """What a request has of the database: its permit, and the sessions it opened."""

    def __init__(self, limit: str | None = None) -> None:
        """Take the limit that counts: read, write, or none for a web socket."""
        self.limit = limit
        self.permit: Limit | None = None
        self.sessions: list[Session] = []

    async def acquire(self, name: str) -> None:
        """Wait for a permit. Raises NotReadyError if none becomes free."""
        try:
            limit = limits.get()[name]
        except LookupError:
            limits.set(make_limits(primary.readers, primary.writers))
            limit = limits.get()[name]
        if self.permit is not limit:
            self.release()
            await limit.acquire(self)

    @property
    def kind(self) -> str:
        """Return which kind of request this is."""
        return self.limit or "other"

    def release(self) -> None:
        """Let the next request have the permit."""
        if self.permit:
            self.permit.release(self)

    def waits_for_database(self) -> bool:
        """Tell whether a session waits for what the next request would wait for."""
        return any(is_at_work(db) for db in self.sessions)

    async def begin_stream(self) -> None:
        """Go on without a permit. With a session, a stream counts as a slow request."""
        if self.sessions:
            await self.acquire("slow")
        else:
            self.release()

    def roll_back(self) -> None:
        """Give locks back at once: the end of the request may have to wait."""
        for db in self.sessions:
            db.rollback()

    def has_unstored(self) -> bool:
        """Tell whether a session wrote, or was about to, and did not commit."""
        return any(has_written(db) for db in self.sessions)

    async def end(self) -> None:
        """End what its sessions did not commit, and let the next request in."""
        try:
            for db in self.sessions:
                if is_on_a_server(db):
                    await roll_back(db)
                elif db.identity_map:
                    db.rollback()
                elif db.in_transaction():  # no objects: the same for half the CPU
                    db.close()
        finally:
            self.release()


def note_connection(db: Session, _: Any, connection: Connection) -> None:
    """Note on which connection a session has begun a transaction."""
    if connection.engine is db.bind:  # not on the engine for one SELECT
        db.info["connection"] = connection


def note_one_select(db: Session, engine: Engine) -> None:
    """Note that a session only reads, and where."""
    db.info["read engine"] = engine


def driver_of(db: Session) -> Any:
    """Return the driver's connection of a transaction that has begun, else None."""
    connection = db.info.get("connection")
    if not connection or connection.closed or not db.in_transaction():
        return None
    return connection.connection.dbapi_connection


def has_begun(db: Session) -> bool:
    """Tell whether a session is in a transaction, which one more SELECT belongs to."""
    return driver_of(db) is not None


def is_at_work(db: Session) -> bool:
    """Tell whether a session only waits for the database."""
    if "read engine" in db.info:
        return True
    with suppress(Exception):  # its thread goes on meanwhile, and may close it
        return bool(driver_of(db).at_work)
    return False


def has_written(db: Session) -> bool:
    """Tell whether a session has changes that no commit has stored."""
    if db.new or (db.identity_map and (db.dirty or db.deleted)):
        return True
    return bool(getattr(driver_of(db), "written", 0))


def is_on_a_server(db: Session) -> bool:
    """Tell whether the end of the session's transaction has to wait for a server."""
    return primary.on_a_server and "connection" in db.info and db.in_transaction()


async def in_thread(function: Callable[..., Any], *arguments: object) -> None:
    """Run what waits for the network, while the event loop goes on."""
    loop = asyncio.get_running_loop()
    with CancelScope(shield=True):  # nobody else may use the session meanwhile
        await loop.run_in_executor(threads, function, *arguments)


async def roll_back(db: Session) -> None:
    """Roll back, without keeping the event loop waiting."""
    with suppress(DBAPIError):  # a server that has gone has forgotten it by itself
        await in_thread(db.rollback)


def check_tables(db: Session) -> None:
    """See whether the tables are those of this version, where the session reads."""
    tables.check(db.info.get("read engine") or db.get_bind().engine)


async def read_body(connection: HTTPConnection) -> None:
    """Read the body before the permit: a slow client keeps nobody out."""
    if isinstance(connection, Request):
        with suppress(RuntimeError):  # FastAPI has read it, as a form
            await connection.body()


@contextmanager
def failures_as_answers(kind: str) -> Iterator[None]:
    """Raise an outage or a conflict as the answer to it, for mounted apps, too."""
    try:
        yield
        outages.end(kind)
    except IllegalStateChangeError as error:
        # The request was cancelled, and its thread still connects.
        if isinstance(error.__context__, asyncio.CancelledError):
            raise error.__context__ from None
        raise
    except Exception as error:
        if answer := answer_to(error, kind):
            raise answer from error
        raise


@asynccontextmanager
async def transaction(db: Session) -> AsyncIterator[None]:
    """See that there are tables; at the end, roll back what is left, in a thread.

    What looks like a mistake in SQL may be an upgrade that was not run.
    """
    if not tables.ready:
        await in_thread(tables.check_any)
    try:
        yield
    except Exception as error:
        if is_mistake(error):
            await in_thread(check_tables, db)
        raise
    finally:
        if is_on_a_server(db):
            await roll_back(db)


def for_one_request(
    get_db: Callable[[], AsyncIterator[Session]],
) -> Callable[[HTTPConnection], AsyncIterator[Session]]:
    """Let a request wait for a permit before `get_db` opens a session for it.

    One permit, however many sessions: else a request with two would wait for itself.
    The middleware ends its use of the database before the answer goes out.
    """
    opened = asynccontextmanager(get_db)

    async def get_db_for_request(connection: HTTPConnection) -> AsyncIterator[Session]:
        use = connection.scope.get("database use") or DatabaseUse()
        with failures_as_answers(use.kind):
            if use.limit == "write":
                await read_body(connection)
            if use.limit and not use.permit:
                await use.acquire(use.limit)
            async with opened() as db, transaction(db):
                use.sessions.append(db)
                yield db

    get_db_for_request.__name__ = get_db.__name__
    get_db_for_request.__doc__ = get_db.__doc__
    return get_db_for_request
