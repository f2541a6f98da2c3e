"""What Alembic runs for each of its commands, to reach the database and the models."""

import sys
from typing import Any

from alembic import context
from sqlalchemy import Connection

from database import engine
from migrations.upgrading import describe, upgrading
from models import Base

OPTIONS: dict[str, Any] = {
    "target_metadata": Base.metadata,
    "render_as_batch": True,  # SQLite cannot alter a column
    "transactional_ddl": True,  # SQLite can
}


def run(connection: Connection) -> None:
    """Take the steps on this connection, in one transaction."""
    only_if_empty = bool(context.config.attributes.get("only_if_empty"))
    if not only_if_empty:
        print("Database:", describe(connection), file=sys.stderr)
    context.configure(connection=connection, **OPTIONS)
    with (
        context.begin_transaction(),
        upgrading(connection, patient=not only_if_empty),
    ):
        # Another service may have made the tables while this one waited.
        if not (only_if_empty and context.get_context().get_current_heads()):
            context.run_migrations()


def write_sql() -> None:
    """Write the steps as SQL, for `--sql`, which needs no database."""
    context.configure(dialect_name=engine.dialect.name, literal_binds=True, **OPTIONS)
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    write_sql()
else:
    with engine.connect() as connection:
        try:
            run(connection)
        finally:
            connection.invalidate()  # no request gets it with the settings made here
