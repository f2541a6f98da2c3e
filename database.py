"""The way to the database: the only file that knows SQLite from PostgreSQL.

`DATABASE_URL` is `sqlite:///path/to/file.db` (if not set, `users.db` here), or any URL of libpq.
"""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from fastapi import Request
from sqlalchemy import event, exc
from sqlalchemy.orm import InstrumentedAttribute, Session, sessionmaker

import migrations

LOCK_TIMEOUT = 4  # seconds that a statement waits for a lock, and a request for its turn
url = os.environ.get("DATABASE_URL") or f"sqlite:///{Path(__file__).with_name('users.db')}"
if SQLITE := url.startswith("sqlite:"):
    FILE = Path(sa.make_url(url).database or ":memory:").absolute()
    if FILE.name == ":memory:" or "file:" in str(FILE):
        raise ValueError("DATABASE_URL must have the path of a file: sqlite:///path/to/file.db")
    if not FILE.exists():
        FILE.touch(mode=0o600)  # readable by its owner alone
    # mode=rw: a file that is moved away is not replaced by an empty one.
    url = f"sqlite:///{FILE.as_uri()}?mode=rw&uri=true"
    connect_args: dict[str, Any] = {"isolation_level": None, "timeout": LOCK_TIMEOUT}
    # SQLite has one writer at a time, and more readers than two only wait for the interpreter.
    READERS, WRITERS, BEGIN = 2, 1, "BEGIN IMMEDIATE"  # which can wait for the lock of others
    SETTINGS = ["PRAGMA synchronous = FULL", "PRAGMA foreign_keys = ON"]  # FULL: no write is lost
elif url.startswith(("postgres:", "postgresql:", "postgresql+psycopg:")):
    from psycopg.conninfo import conninfo_to_dict  # not at the top: it takes 6 MB

    connect_args = {
        "connect_timeout": 2,  # seconds, for each host of the URL
        "tcp_user_timeout": 5000,  # milliseconds until a host that went silent is given up
        **conninfo_to_dict(url.replace("+psycopg", "", 1)),
        "autocommit": True,
        "prepare_threshold": None,  # behind a pooler, connections would share prepared statements
    }
    url = "postgresql+psycopg://"
    READERS, WRITERS, BEGIN = 8, 4, "BEGIN"
    # Unless the URL, the role or the database says otherwise. (Poolers refuse start-up options.)
    unless_set = "SELECT set_config('{0}', '{1}s', false) WHERE current_setting('{0}') = '0'"
    seconds = {"lock_timeout": LOCK_TIMEOUT, "statement_timeout": LOCK_TIMEOUT + 1}
    SETTINGS = [unless_set.format(*setting) for setting in seconds.items()]
else:
    raise ValueError("DATABASE_URL must start with sqlite: or postgresql:")

# One SELECT is a transaction already: without BEGIN, a read is one round trip, not three.
read_engine = sa.create_engine(
    url,
    connect_args=connect_args,
    pool_size=READERS + WRITERS,
    max_overflow=0,
    pool_timeout=LOCK_TIMEOUT,
    hide_parameters=True,  # names and addresses of people do not belong in a log
)
engine = sa.create_engine(url, pool=read_engine.pool, hide_parameters=True)  # with begin() below
SessionLocal = sessionmaker(autocommit=False, autoflush=False, bind=engine)
read_turns, write_turns = asyncio.Semaphore(READERS), asyncio.Semaphore(WRITERS)


async def get_db(request: Request) -> AsyncIterator[Session]:
    """Open one session for one request, and close it when the request no longer needs it.

    `async`, unlike in the lesson: FastAPI sends each half of a plain generator to a thread, which
    takes 1.2 to 1.4 times the CPU. Here requests wait for their turn, reads in a line of their own,
    without a thread or a connection. Raises TimeoutError after LOCK_TIMEOUT, and TablesError.
    """
    reads = request.method in ("GET", "HEAD")
    turns = read_turns if reads else write_turns
    async with asyncio.timeout(LOCK_TIMEOUT):
        await turns.acquire()
    db = SessionLocal()
    try:
        if reads:
            db.bind = read_engine
        if not migrations.tables:
            await asyncio.to_thread(migrations.check_tables, read_engine)
        yield db
    except Exception as error:
        await asyncio.to_thread(db.rollback)  # which may have to wait for the network
        if isinstance(error, exc.DBAPIError) and not is_outage(error):  # are the tables still ours?
            await asyncio.to_thread(migrations.check_tables, read_engine)
        raise
    finally:
        db.close()
        turns.release()


def begin(connection: Any) -> None:
    """Begin a transaction, which the drivers do not. As an event, it costs a write 0.1 more CPU."""
    connection.execute(BEGIN)


engine.dialect.do_begin = begin  # type: ignore[assignment]


@event.listens_for(engine, "connect")
def set_up(connection: Any, record: Any) -> None:
    """Tell a new connection what it has to know."""
    for setting in SETTINGS:
        connection.execute(setting)
    record.info["file"] = SQLITE and FILE.stat()[:2]  # its mode and its number


@event.listens_for(engine, "checkout")
def check(connection: Any, record: Any, _: Any) -> None:
    """Check a connection before it is used, so that the database may restart or be replaced."""
    idle = time.monotonic() - record.info.get("used", 0)
    record.info["used"] = time.monotonic()
    if SQLITE and not (FILE.exists() and FILE.stat()[:2] == record.info["file"]):
        raise exc.InvalidatePoolError("the file was moved, replaced or made read-only")
    # A round trip, 0.2 of what a read costs: left out after a recent use, as HikariCP does.
    if not SQLITE and idle > 0.5:
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise exc.InvalidatePoolError(str(error)) from error


def json_page(fields: list[Any], *filters: sa.ColumnElement[bool]) -> sa.Select[str, int]:
    """Let the database write a page as JSON: one row in place of a hundred, for half the CPU.

    The first of `fields` is the id. The statement takes `limit` and `after`, an id, and returns an
    array of objects, and the last id in it if more rows follow, else NULL.
    """
    rows = sa.select(*fields).where(fields[0] > sa.bindparam("after"), *filters).order_by(fields[0])
    page = rows.limit(sa.bindparam("limit", type_=sa.Integer)).subquery()
    if SQLITE:
        pairs = [part for column in page.c for part in (column.name, column)]
        array = sa.func.json_group_array(sa.func.json_object(*pairs))
    else:
        array = sa.func.coalesce(sa.cast(sa.func.json_agg(page.table_valued()), sa.Text), "[]")
    answer = sa.select(array.label("json"), sa.func.max(page.c[0]).label("last")).subquery()
    # Not EXISTS, for which PostgreSQL may search the table from its first row on.
    more = rows.with_only_columns(fields[0]).where(fields[0] > answer.c.last).limit(1)
    return sa.select(answer.c.json, sa.case((more.scalar_subquery() > 0, answer.c.last)))


def is_taken(error: exc.IntegrityError, column: InstrumentedAttribute[Any]) -> bool:
    """Tell whether a write was refused because another row has its value of a unique column."""
    # PostgreSQL names the constraint, and SQLite the column. The next line quotes the value.
    name = rf"\b(uq_)?{column.class_.__tablename__}[._]{column.key}\b"
    return re.search(name, str(error.orig).partition("\n")[0]) is not None


def is_outage(error: exc.DBAPIError) -> bool:
    """Tell an outage from a mistake in the code."""
    # PEP 249 blames these on the programmer. SQLite has them for OperationalError, too, in ERROR,
    # MISUSE and RANGE; PostgreSQL in a failed transaction and "not in prerequisite state".
    mistakes = exc.ProgrammingError | exc.DataError | exc.IntegrityError | exc.NotSupportedError
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF or getattr(error.orig, "sqlstate", 0)
    return not isinstance(error, mistakes) and code not in {1, 21, 25, "25P02", "55000"}
