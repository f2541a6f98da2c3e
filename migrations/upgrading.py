"""What an upgrade needs on either database: one at a time, all of it or nothing."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Table, event, exc

from production.settings import LOCK_TIMEOUT

AUTOINCREMENT = """
    SELECT name FROM sqlite_master WHERE name = ? AND sql LIKE '%AUTOINCREMENT%'"""


def upgrading(connection: Connection, *, patient: bool) -> Any:
    """Change the tables in one transaction, after another one, however long.

    Unless patient, give up after LOCK_TIMEOUT seconds.
    """
    if connection.dialect.name == "sqlite":
        return upgrading_sqlite(connection, patient=patient)
    return upgrading_postgresql(connection, patient=patient)


def describe(connection: Connection) -> str:
    """Name the database, for whoever is about to alter it."""
    driver: Any = connection.connection.dbapi_connection
    if connection.dialect.name == "sqlite":
        return str(connection.engine.url.database)
    return f"{driver.info.dbname} on {driver.info.host}:{driver.info.port}"


@contextmanager
def upgrading_postgresql(connection: Connection, *, patient: bool) -> Iterator[None]:
    """Wait for the lock of upgrades. A step may take long, once it has its table.

    It waits no longer for a table than a request, since requests wait behind it.
    """
    for statement in (
        "RESET statement_timeout",  # for a step that has no transaction
        "SET LOCAL statement_timeout = 0",
        f"SET LOCAL lock_timeout = '{0 if patient else LOCK_TIMEOUT}s'",
        "SELECT pg_advisory_xact_lock(7236589)",
        f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}s'",
    ):
        connection.exec_driver_sql(statement)
    yield


@contextmanager
def upgrading_sqlite(connection: Connection, *, patient: bool) -> Iterator[None]:
    """Lock the file.

    SQLite alters a table by building another and dropping the first: that must not
    delete the rows that refer to it, nor give an id again.
    """
    driver: Any = connection.connection.dbapi_connection
    driver.execute("PRAGMA foreign_keys = OFF")  # ignored inside a transaction
    while not driver.in_transaction:
        try:
            driver.take_lock()
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
            driver.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", [table, last])


def last_ids(connection: sqlite3.Connection) -> dict[str, int]:
    """Return the last id that each table with AUTOINCREMENT has given."""
    tables = "SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'"
    if not connection.execute(tables).fetchone():
        return {}
    return dict(connection.execute("SELECT name, seq FROM sqlite_sequence"))
