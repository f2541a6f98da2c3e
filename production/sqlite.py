"""What the service needs to know about SQLite."""

import asyncio
import os
import re
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import WeakSet

from sqlalchemy import URL, CompoundSelect, Connection, Engine, Select, event, exc

from production import LOCK_TIMEOUT

READS = re.compile(r"\s*(SELECT|PRAGMA|WITH)\b", re.I)
WRITES = re.compile(r"\s*WITH\b.*\b(INSERT|UPDATE|DELETE|REPLACE)\b", re.I | re.S)


class SQLite:
    """A file, which has one writer at a time."""

    on_a_server = False
    readers, writers = 2, 1  # more readers would only wait for the interpreter
    # How a change of the tables begins. WAL lets reads go on during a write; the file
    # remembers it. SQLite alters a table by building another and dropping the first,
    # which must not delete the rows that refer to it.
    begin_upgrade = (
        "PRAGMA journal_mode = WAL",
        "PRAGMA foreign_keys = OFF",  # ignored inside a transaction
        "BEGIN IMMEDIATE",
    )

    def __init__(self, file: Path) -> None:
        """Take the path of the file, which need not exist yet."""
        self.file, self.met = file.absolute(), False
        url = URL.create("sqlite", database=str(self.file))
        self.options: dict[str, Any] = {"url": url, "creator": self.connect}

    def prepare(self, engine: Engine, read_engine: Engine) -> None:
        """Check the connections; begin transactions on the first engine."""
        for each in (engine, read_engine):
            event.listen(each, "checkout", self.check_file)
        event.listen(engine, "before_cursor_execute", begin_before_write)
        event.listen(engine, "reset", close_cursors)

    def connect(self) -> sqlite3.Connection:
        """Open the file. Make it the first time, readable by its owner alone."""
        with suppress(OSError):  # the driver says it better
            if not (self.met or self.file.exists()):
                self.file.touch(mode=0o600)
            self.met = True
        connection = sqlite3.connect(
            f"{self.file.as_uri()}?mode=rw",  # no new file for one that was moved
            uri=True,
            timeout=LOCK_TIMEOUT,
            isolation_level=None,  # the driver's BEGIN would not wait for the lock
            check_same_thread=False,
        )
        # FULL: what was committed survives a power cut.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    def check_file(self, _: Any, record: Any, __: Any) -> None:
        """See before each use that the file is the one that was opened."""
        try:
            found = os.stat(self.file)
        except OSError:
            raise sqlite3.OperationalError("unable to open database file") from None
        identity = found.st_ino, found.st_mode  # it may be read-only meanwhile
        if record.info.setdefault("file", identity) != identity:
            raise exc.InvalidatePoolError("the file was replaced, or its mode")


def begin_before_write(
    connection: Connection, cursor: Any, sql: str, _: Any, context: Any, __: bool
) -> None:
    """Begin a transaction, unless the statement only reads.

    BEGIN IMMEDIATE waits for the lock of the file. A transaction that has read before
    it writes would be refused at once; a read with the lock would keep writers waiting.
    """
    # In SQLite, no SELECT can write, and no PRAGMA writes rows.
    reads = READS.match(sql) and not WRITES.match(sql)
    if reads or isinstance(context.invoked_statement, Select | CompoundSelect):
        connection.info.setdefault("cursors", WeakSet()).add(cursor)
    elif not cursor.connection.in_transaction:
        try:
            take_lock(cursor)
        except sqlite3.Error as error:
            raise exc.OperationalError("BEGIN IMMEDIATE", None, error) from error


def take_lock(cursor: sqlite3.Cursor) -> None:
    """Wait for the lock; in an event loop only a moment, since all requests wait then.

    Whoever has the lock may be one of them, and would never give it back.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        cursor.execute("BEGIN IMMEDIATE")
        return
    cursor.execute("PRAGMA busy_timeout = 100")
    try:
        cursor.execute("BEGIN IMMEDIATE")
    finally:
        cursor.execute(f"PRAGMA busy_timeout = {LOCK_TIMEOUT * 1000}")


def close_cursors(_: Any, record: Any, __: Any) -> None:
    """Close what was not read to its end, as when the client of a stream has gone.

    The connection would otherwise stay in its old snapshot, and could not write.
    """
    for cursor in record.info.pop("cursors", ()):
        cursor.close()
