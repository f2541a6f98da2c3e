"""The way to the database: the one file that knows SQLite from PostgreSQL.

`DATABASE_URL` says where the data is: `sqlite:///path/to/file.db`, or any PostgreSQL URL that libpq
takes (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING). Without it,
the data is in a SQLite file beside the code.
"""

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

from alembic import command
from alembic.config import Config
from fastapi import Depends
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import TimeoutError
from sqlalchemy.orm import Session, SessionTransaction, sessionmaker

HERE = Path(__file__).parent
LOCK_TIMEOUT = 4  # seconds that a statement waits for a lock, and a request for its session

url = os.environ.get("DATABASE_URL") or f"sqlite:///{HERE / 'users.db'}"
connect_args: dict[str, Any]
if url.startswith("sqlite:"):
    # How many requests of one process may hold a session at once. SQLite has one writer at a time:
    # a second would only poll for the lock.
    READERS, WRITERS = 4, 1
    # IMMEDIATE: a write takes its lock when it starts, and can wait for it. A lock that is only
    # taken half-way, after a read, fails at once when another write came between.
    connect_args = {"isolation_level": "IMMEDIATE", "timeout": LOCK_TIMEOUT}
elif url.startswith(("postgres:", "postgresql:", "postgresql+psycopg:")):
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

engine = create_engine(
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


arrived: ContextVar[float] = ContextVar("arrived", default=math.inf)


async def note_arrival() -> None:
    """Remember when this request came."""
    arrived.set(time.monotonic())


@event.listens_for(SessionLocal, "after_transaction_create")
def turn_away(_: Session, __: SessionTransaction) -> None:
    """Raise TimeoutError in a request that waited too long for its session.

    When every session waits for somebody's lock, whoever is in line behind them is told at once,
    instead of waiting for the same lock in turn.
    """
    if time.monotonic() - arrived.get() > LOCK_TIMEOUT:
        raise TimeoutError("no session became free in time")


def get_db() -> Iterator[Session]:
    """Open one session for one request, and close it when its endpoint has returned."""
    db = SessionLocal()
    try:
        yield db
    finally:
        db.close()


# scope="function" closes the session before the answer is sent, so a client that reads slowly
# holds nothing. max_concurrency makes requests wait in the event loop, where waiting costs no
# thread, and in lines of their own: a write that is kept waiting keeps no read waiting.
ReadSession = Annotated[Session, Depends(get_db, scope="function", max_concurrency=READERS)]
WriteSession = Annotated[Session, Depends(get_db, scope="function", max_concurrency=WRITERS)]
HealthSession = Annotated[Session, Depends(get_db, scope="function", max_concurrency=1)]


def upgrade() -> None:
    """Bring the schema to the newest version in `migrations/`.

    Raises OperationalError while the database is away or locked; then nothing has changed.
    """
    command.upgrade(Config(toml_file=HERE / "pyproject.toml"), "head")


@contextmanager
def schema_change() -> Iterator[Connection]:
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
