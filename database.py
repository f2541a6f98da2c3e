"""The way to the database: engine, sessions, and what SQLite needs to be trusted.

`DATABASE_URL` names the database (an SQLAlchemy URL); without it, a SQLite file beside the code.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from fastapi import Depends
from sqlalchemy import MetaData, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

# How many requests of one process may hold a session at once; the others wait in the event loop,
# where waiting costs no thread. SQLite has one writer at a time: a second would only poll the lock.
READERS, WRITERS = 4, 1
LOCK_TIMEOUT = 4  # seconds that a write waits for another program's lock

engine = create_engine(
    os.environ.get("DATABASE_URL") or f"sqlite:///{Path(__file__).with_name('users.db')}",
    pool_size=READERS + WRITERS + 1,  # one more for /health
    max_overflow=0,
    pool_pre_ping=True,
    # IMMEDIATE: a write takes its lock when it starts, and can wait for it. A lock that is only
    # taken half-way, after a read, fails at once when another write came between.
    connect_args={"isolation_level": "IMMEDIATE", "timeout": LOCK_TIMEOUT},
)
SessionLocal = sessionmaker(autocommit=False, autoflush=False, bind=engine)


@event.listens_for(engine, "connect")
def set_pragmas(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    """Set what SQLite forgets when a connection closes (https://sqlite.org/pragma.html)."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous = FULL")  # an acknowledged write is on the disk
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def create_tables(metadata: MetaData) -> None:
    """Create the tables that are missing, also when several services start at the same instant.

    Raises OperationalError when the file cannot be opened, or stays locked for LOCK_TIMEOUT.
    """
    with engine.connect() as connection:
        # WAL lets reads go on during a write, and is remembered in the file. To change the mode
        # SQLite needs the file for itself and does not wait for it, so the waiting is done here.
        deadline = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
                break
            except OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        # "Is the table there?" and "create it" must be one step for two services.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        metadata.create_all(connection)
        connection.commit()


def get_db() -> Iterator[Session]:
    """Open one session for one request, and close it when its endpoint has returned."""
    db = SessionLocal()
    try:
        yield db
    finally:
        db.close()


# scope="function" closes the session before the answer is sent, so a client that reads slowly
# holds nothing. Reads, writes and the health check wait in lines of their own: a write that is
# kept waiting keeps no read waiting.
ReadSession = Annotated[Session, Depends(get_db, scope="function", max_concurrency=READERS)]
WriteSession = Annotated[Session, Depends(get_db, scope="function", max_concurrency=WRITERS)]
HealthSession = Annotated[Session, Depends(get_db, scope="function", max_concurrency=1)]
