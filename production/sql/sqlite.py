"""What the service needs to know about SQLite."""

import asyncio
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from weakref import WeakSet

from sqlalchemy import (
    URL,
    CompoundSelect,
    Engine,
    ExceptionContext,
    Select,
    event,
    exc,
)
from sqlalchemy import Connection as SQLAlchemyConnection

from production.settings import LOCK_TIMEOUT
from production.sql.limits import serves_requests
from production.sql.sqlite_dialect import FOR_UPDATE

READS = re.compile(r"\s*(SELECT|PRAGMA|WITH)\b", re.I)
WRITES = re.compile(r"\s*WITH\b.*\b(INSERT|UPDATE|DELETE|REPLACE)\b", re.I | re.S)


class Connection(sqlite3.Connection):
    """The driver's connection, which knows what its transaction has written."""

    waits = False  # for the lock of the file
    unwritten = 0  # changes of before the transaction, or undone in it

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.savepoints: dict[str, int] = {}

    @property
    def at_work(self) -> bool:
        """Tell whether the next writer would have to wait for this one."""
        return self.waits or self.in_transaction

    @property
    def written(self) -> int:
        """Return how many rows the transaction has changed."""
        return self.total_changes - self.unwritten if self.in_transaction else 0

    def note_savepoint(self, sql: str) -> None:
        """Do not count what is undone: the driver's counter never goes back."""
        if sql.startswith("SAVEPOINT"):
            self.savepoints[sql.rsplit(maxsplit=1)[-1]] = self.written
        elif sql.startswith("ROLLBACK TO"):
            kept = self.savepoints.get(sql.rsplit(maxsplit=1)[-1], 0)
            self.unwritten = self.total_changes - kept

    def take_lock(self) -> None:
        """Begin, and wait for the lock; in the event loop of the service only a moment.

        All requests wait then, and whoever has the lock may be one of them, which would
        never give it back.
        """
        limit = waiting(self, 100) if in_event_loop() else nullcontext()
        self.waits = True
        try:
            with limit:
                self.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise exc.OperationalError("BEGIN IMMEDIATE", None, error) from error
        finally:
            self.waits = False
        self.unwritten = self.total_changes


class SQLite:
    """A file, which has one writer at a time."""

    on_a_server = False
    readers, writers = 2, 1  # more readers would only wait for the interpreter
    overflow = 40  # connections for what lives longer than a request

    def __init__(self, file: Path) -> None:
        """Take the path of the file, which need not exist yet."""
        self.file = file.absolute()
        self.met = self.in_wal = False
        self.engines: list[Engine] = []
        self.url = URL.create("sqlite+service", database=str(self.file))
        self.options: dict[str, Any] = {"creator": self.connect}

    def prepare(self, engine: Engine, *, writes: bool) -> None:
        """Check the connections of an engine, and begin transactions if it writes."""
        self.engines.append(engine)
        event.listen(engine, "checkout", self.check_file)
        event.listen(engine, "handle_error", self.close_if_read_only)
        if writes:
            event.listen(engine, "before_cursor_execute", begin_before_write)
            event.listen(engine, "reset", tidy)

    def cut(self) -> None:
        """Do nothing: whatever waits for a lock gives up by itself."""

    def connect(self) -> Connection:
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
            factory=Connection,
        )
        # FULL: what was committed survives a power cut.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        self.in_wal = False
        return connection

    def check_file(self, connection: Any, record: Any, _: Any) -> None:
        """See before each use that the file is the one that was opened, in WAL mode."""
        try:
            found = os.stat(self.file)
        except OSError:
            raise sqlite3.OperationalError("unable to open database file") from None
        identity = found.st_ino, found.st_mode  # it may be read-only meanwhile
        replaced = record.info.setdefault("file", identity) != identity
        if replaced:
            raise exc.InvalidatePoolError("the file was replaced, or its mode")
        if not self.in_wal:
            self.in_wal = use_wal(connection)

    def close_if_read_only(self, context: ExceptionContext) -> None:
        """Close the connections that were opened while the file was read-only.

        All at once: those of a process share what SQLite has found out.
        """
        code = getattr(context.original_exception, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_READONLY and os.access(self.file, os.W_OK):
            context.is_disconnect = True
            for engine in self.engines:
                engine.dispose()


def use_wal(connection: sqlite3.Connection) -> bool:
    """Let reads go on during a write.

    The file remembers it, but a backup made by VACUUM INTO does not.
    """
    # In use or read-only: the next one tries.
    with suppress(sqlite3.OperationalError), waiting(connection, 0):
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        return bool(mode == "wal")
    return False


def begin_before_write(
    connection: SQLAlchemyConnection,
    cursor: Any,
    sql: str,
    _: Any,
    context: Any,
    __: bool,
) -> None:
    """Begin a transaction, unless the statement only reads.

    BEGIN IMMEDIATE waits for the lock of the file. A transaction that has read before
    it writes would be refused at once; a read with the lock would keep writers waiting.
    """
    if only_reads(sql, context.invoked_statement):
        connection.info.setdefault("cursors", WeakSet()).add(cursor)
        return
    level = connection.get_execution_options().get("isolation_level")
    driver = cursor.connection
    if not driver.in_transaction and level != "AUTOCOMMIT":
        driver.take_lock()
    driver.note_savepoint(sql)


def only_reads(sql: str, statement: Any) -> bool:
    """Tell whether a statement needs no lock.

    In SQLite, no SELECT can write, and no PRAGMA writes rows.
    """
    if FOR_UPDATE in sql:
        return False
    if isinstance(statement, Select | CompoundSelect):
        return True
    return bool(READS.match(sql) and not WRITES.match(sql))


def in_event_loop() -> bool:
    """Tell whether whoever waits here keeps the requests of an event loop waiting."""
    try:
        return serves_requests(asyncio.get_running_loop())
    except RuntimeError:
        return False


@contextmanager
def waiting(connection: sqlite3.Connection, milliseconds: int) -> Iterator[None]:
    """Wait only so long for a lock, in place of LOCK_TIMEOUT seconds."""
    connection.execute(f"PRAGMA busy_timeout = {milliseconds}")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA busy_timeout = {LOCK_TIMEOUT * 1000}")


def tidy(connection: Any, record: Any, _: Any) -> None:
    """Leave nothing for the next one who uses the connection.

    What was not read to its end, as when the client of a stream has gone, would keep it
    in its old snapshot. After a COMMIT that failed, its transaction is still open.
    """
    cursors = record.info.pop("cursors", ()) if record else ()  # None: detached
    for cursor in cursors:
        cursor.close()
    if connection.in_transaction:
        connection.rollback()
