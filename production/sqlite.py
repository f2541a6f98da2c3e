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
    Connection,
    Engine,
    Select,
    Table,
    event,
    exc,
)

from production import LOCK_TIMEOUT

READS = re.compile(r"\s*(SELECT|PRAGMA|WITH)\b", re.I)
WRITES = re.compile(r"\s*WITH\b.*\b(INSERT|UPDATE|DELETE|REPLACE)\b", re.I | re.S)
AUTOINCREMENT = """
    SELECT name FROM sqlite_master WHERE name = ? AND sql LIKE '%AUTOINCREMENT%'"""


class SQLite:
    """A file, which has one writer at a time."""

    on_a_server = False
    readers, writers = 2, 1  # more readers would only wait for the interpreter

    def __init__(self, file: Path) -> None:
        """Take the path of the file, which need not exist yet."""
        self.file = file.absolute()
        self.met = self.in_wal = False
        url = URL.create("sqlite", database=str(self.file))
        self.options: dict[str, Any] = {"url": url, "creator": self.connect}

    def describe(self, _: Connection) -> str:
        """Name the database, for whoever is about to alter it."""
        return str(self.file)

    def prepare(self, engine: Engine, read_engine: Engine) -> None:
        """Check the connections; begin transactions on the first engine."""
        for each in (engine, read_engine):
            event.listen(each, "checkout", self.check_file)
        event.listen(engine, "before_cursor_execute", begin_before_write)
        event.listen(engine, "reset", close_cursors)

    def missing_rights(self, _: Connection) -> str:
        """Name none: a file that may not be read or written says so by itself."""
        return ""

    def cut(self) -> None:
        """Do nothing: whatever waits for a lock gives up by itself."""

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

    @contextmanager
    def upgrading(self, connection: Connection, patient: bool) -> Iterator[None]:
        """Change the tables in one transaction, after another one, however long.

        Unless patient, give up after LOCK_TIMEOUT seconds.

        SQLite alters a table by building another and dropping the first: that must
        not delete the rows that refer to it, nor give an id again.
        """
        driver: Any = connection.connection.dbapi_connection
        driver.execute("PRAGMA foreign_keys = OFF")  # ignored inside a transaction
        while not driver.in_transaction:
            try:
                take_lock(driver)
            except exc.OperationalError as error:
                code = getattr(error.orig, "sqlite_errorcode", None)
                if not patient or code != sqlite3.SQLITE_BUSY:
                    raise

        def never_reuses_ids(table: str) -> bool:
            return driver.execute(AUTOINCREMENT, [table]).fetchone() is not None

        def keep_autoincrement(_: Any, table: Table, __: Any) -> None:
            kept = never_reuses_ids(table.name)
            table.dialect_options["sqlite"]["autoincrement"] = kept

        event.listen(Table, "column_reflect", keep_autoincrement)
        before = last_ids(driver)
        try:
            yield
        finally:
            event.remove(Table, "column_reflect", keep_autoincrement)
        after = last_ids(driver)
        for table, last in before.items():
            if never_reuses_ids(table) and after.get(table, 0) < last:
                driver.execute("DELETE FROM sqlite_sequence WHERE name = ?", [table])
                driver.execute(
                    "INSERT INTO sqlite_sequence VALUES (?, ?)", [table, last]
                )


def use_wal(connection: sqlite3.Connection) -> bool:
    """Let reads go on during a write.

    The file remembers it, but a backup made by VACUUM INTO does not.
    """
    # In use or read-only: the next one tries.
    with suppress(sqlite3.OperationalError), waiting(connection, 0):
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        return bool(mode == "wal")
    return False


def last_ids(connection: sqlite3.Connection) -> dict[str, int]:
    """Return the last id that each table with AUTOINCREMENT has given."""
    tables = "SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'"
    if not connection.execute(tables).fetchone():
        return {}
    return dict(connection.execute("SELECT name, seq FROM sqlite_sequence"))


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
        return
    level = connection.get_execution_options().get("isolation_level")
    if level == "AUTOCOMMIT" or cursor.connection.in_transaction:
        return
    take_lock(cursor)


def take_lock(driver: sqlite3.Connection | sqlite3.Cursor) -> None:
    """Wait for the lock; in an event loop only a moment, since all requests wait then.

    Whoever has the lock may be one of them, and would never give it back.
    """
    limit = waiting(driver, 100) if in_event_loop() else nullcontext()
    try:
        with limit:
            driver.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        raise exc.OperationalError("BEGIN IMMEDIATE", None, error) from error


def in_event_loop() -> bool:
    """Tell whether whoever waits here keeps an event loop waiting."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@contextmanager
def waiting(
    driver: sqlite3.Connection | sqlite3.Cursor, milliseconds: int
) -> Iterator[None]:
    """Wait only so long for a lock, in place of LOCK_TIMEOUT seconds."""
    driver.execute(f"PRAGMA busy_timeout = {milliseconds}")
    try:
        yield
    finally:
        driver.execute(f"PRAGMA busy_timeout = {LOCK_TIMEOUT * 1000}")


def close_cursors(_: Any, record: Any, __: Any) -> None:
    """Close what was not read to its end, as when the client of a stream has gone.

    The connection would otherwise stay in its old snapshot, and could not write.
    """
    cursors = record.info.pop("cursors", ()) if record else ()  # None: detached
    for cursor in cursors:
        cursor.close()
