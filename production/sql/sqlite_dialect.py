"""SQLAlchemy's dialect of SQLite, with the two words that it leaves out."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite import DATETIME
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

FOR_UPDATE = " /* FOR UPDATE */"


class TimeWithZone(DATETIME):
    """`DateTime(timezone=True)`: stored in UTC, and read with its zone."""

    def bind_processor(self, dialect: Any) -> Callable[[Any], Any]:
        """Store the time of UTC."""
        write: Any = super().bind_processor(dialect)

        def store(value: datetime | None) -> Any:
            if self.timezone and value and value.tzinfo:
                value = value.astimezone(UTC).replace(tzinfo=None)
            return write(value)

        return store

    def result_processor(self, dialect: Any, coltype: object) -> Callable[[Any], Any]:
        """Give back the zone that was not stored."""
        read: Any = super().result_processor(dialect, coltype)

        def load(stored: Any) -> datetime | None:
            value: datetime | None = read(stored)
            return value.replace(tzinfo=UTC) if self.timezone and value else value

        return load


class Compiler(SQLiteCompiler):
    """Writes FOR UPDATE as a comment: SQLite locks the file, not rows."""

    def for_update_clause(self, select: Any, **options: Any) -> str:
        """Mark the statement, so that the lock is taken before it."""
        return FOR_UPDATE


class Dialect(SQLiteDialect_pysqlite):
    """`sqlite+service`."""

    statement_compiler = Compiler
    colspecs = {**SQLiteDialect_pysqlite.colspecs, DateTime: TimeWithZone}
    supports_statement_cache = True


registry.register("sqlite.service", __name__, "Dialect")
