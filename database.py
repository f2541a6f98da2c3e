"""The way to the database: the one file that knows SQLite from PostgreSQL.

`DATABASE_URL` says where the data is: `sqlite:///path/to/file.db`, or any PostgreSQL URL that libpq
takes (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING). Without it,
the data is in a SQLite file beside the code.
"""

import math
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from fastapi import Depends
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import event
from sqlalchemy.exc import TimeoutError
from sqlalchemy.orm import Session, sessionmaker

HERE = Path(__file__).parent
LOCK_TIMEOUT = 4  # seconds that a statement waits for a lock, and a request for its session

url = os.environ.get("DATABASE_URL") or f"sqlite:///{HERE / 'users.db'}"
connect_args: dict[str, Any]
if url.startswith("sqlite:"):
    # How many requests of one process may hold a session at once. SQLite has one writer at a time:
    # a second would only poll for the lock. More readers than two only wait for the interpreter.
    READERS, WRITERS = 2, 1
    # IMMEDIATE: a write takes its lock when it starts, and can wait for it. A lock that is only
    # taken half-way, after a read, fails at once when another write came between.
    connect_args = {"isolation_level": "IMMEDIATE", "timeout": LOCK_TIMEOUT}
elif url.startswith(("postgres:", "postgresql:", "postgresql+psycopg:")):
    from psycopg.conninfo import conninfo_to_dict  # not at the top: it takes 6 MB
    from psycopg.errors import FeatureNotSupported
    from psycopg.pq import TransactionStatus

    READERS, WRITERS = 8, 4
    asked = conninfo_to_dict(url.replace("+psycopg", "", 1))
    connect_args = {
        "connect_timeout": 2,  # seconds, for each host of the URL
        "tcp_user_timeout": 5000,  # milliseconds until a host that went silent is given up
        **asked,
        "autocommit": True,  # see begin()
        # Of two equal options, the later one counts: the URL's.
        "options": f"-c lock_timeout={LOCK_TIMEOUT}s -c statement_timeout={LOCK_TIMEOUT + 1}s "
        f"{asked.get('options', '')}",
    }
    url = "postgresql+psycopg://"
else:
    raise ValueError("DATABASE_URL must start with sqlite: or postgresql:")

engine = sa.create_engine(
    url,
    connect_args=connect_args,
    pool_size=READERS + WRITERS + 1,  # one more for /health
    max_overflow=0,
    pool_pre_ping=True,
    hide_parameters=True,  # names and addresses of people do not belong in a log
)
SessionLocal = sessionmaker(autocommit=False, autoflush=False, bind=engine)
SQLITE = engine.dialect.name == "sqlite"

if SQLITE:

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _: object) -> None:
        """Set what SQLite forgets when a connection closes (https://sqlite.org/pragma.html)."""
        connection.execute("PRAGMA synchronous = FULL")  # an acknowledged write is on the disk
        connection.execute("PRAGMA foreign_keys = ON")

else:

    @event.listens_for(engine, "do_execute")
    @event.listens_for(engine, "do_executemany")
    def begin(cursor: Any, statement: str, _: object, __: object) -> None:
        """Start a transaction for all but a plain SELECT, as Python's sqlite3 does by itself.

        A SELECT alone is a transaction already. BEGIN before and ROLLBACK after it would make
        three round trips of one, and an idle transaction of a client that does not go on.
        """
        reads = statement.lstrip()[:6].upper() == "SELECT" and " FOR " not in statement
        if not reads and cursor.connection.info.transaction_status == TransactionStatus.IDLE:
            cursor.connection.execute("BEGIN")

    @event.listens_for(engine, "handle_error")
    def forget_prepared_statements(context: sa.ExceptionContext) -> None:
        """Open new connections if a column has changed since statements were prepared on them."""
        if isinstance(context.original_exception, FeatureNotSupported):
            context.is_disconnect = True


def get_db() -> Iterator[Session]:
    """Open one session for one request, and close it when its endpoint has returned."""
    db = SessionLocal()
    try:
        yield db
    finally:
        db.close()


arrived: ContextVar[float] = ContextVar("arrived", default=math.inf)


async def get_db_inline() -> AsyncIterator[Session]:
    """Run get_db in the event loop: less work than to send its two halves to a thread and back.

    Raises TimeoutError for a request that waited too long for its turn. When everybody waits for
    somebody's lock, who is in line behind them is told at once, and need not wait for it in turn.
    """
    if time.monotonic() - arrived.get() > LOCK_TIMEOUT:
        raise TimeoutError("no session became free in time")
    with contextmanager(get_db)() as db:
        try:
            yield db
        except Exception:
            await run_in_threadpool(db.rollback)  # which may have to wait for the network
            raise


# scope="function" closes the session before the answer is sent, so a client that reads slowly
# holds nothing. max_concurrency makes requests wait in the event loop, where waiting costs no
# thread, and in lines of their own: a write that is kept waiting keeps no read waiting.
ReadSession = Annotated[Session, Depends(get_db_inline, scope="function", max_concurrency=READERS)]
WriteSession = Annotated[Session, Depends(get_db_inline, scope="function", max_concurrency=WRITERS)]
HealthSession = Annotated[Session, Depends(get_db_inline, scope="function", max_concurrency=1)]


def json_page(
    query: sa.Select[*tuple[Any, ...]], limit: sa.BindParameter[int]
) -> sa.Select[str, int]:
    """Let the database write a page as JSON: one row comes back in place of a hundred.

    `query` selects an id first, and is ordered by it. The row has a JSON array with an object for
    each of the first `limit` rows, and the last id among them if more rows follow, else NULL.
    """
    rows = query.limit(limit).subquery()
    if SQLITE:
        pairs = [part for column in rows.c for part in (column.name, column)]
        array = sa.func.json_group_array(sa.func.json_object(*pairs))
    else:
        array = sa.func.coalesce(sa.cast(sa.func.json_agg(rows.table_valued()), sa.Text), "[]")
    page = sa.select(array.label("json"), sa.func.max(rows.c[0]).label("last")).subquery()
    more = query.where(query.selected_columns[0] > page.c.last).exists()
    return sa.select(page.c.json, sa.case((more, page.c.last)))


def upgrade() -> None:
    """Bring the schema to the newest version in `migrations/`.

    Raises OperationalError while the database is away or locked; then nothing has changed. Raises
    CommandError if the database is newer than the code.
    """
    command.upgrade(Config(toml_file=HERE / "pyproject.toml"), "head")


@contextmanager
def schema_change() -> Iterator[sa.Connection]:
    """Give a transaction in which nobody else changes the schema, and commit it at the end."""
    with engine.connect() as connection:
        connection.detach()  # from the pool: no request gets it with the settings made here
        if SQLITE:
            # WAL lets reads go on during a write. The file remembers it: once is enough.
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            # SQLite changes a table by building another and dropping the first, which must not
            # delete the rows that refer to it. This setting is ignored inside a transaction.
            connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7236589)")
        yield connection
        connection.commit()
