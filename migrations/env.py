"""What Alembic runs for each of its commands, to reach the database and the models."""

from alembic import context
from sqlalchemy import Connection

from database import engine
from models import Base
from production.dialects import dialect


def run(connection: Connection) -> None:
    """Take the steps on this connection, in one transaction."""
    only_if_empty = bool(context.config.attributes.get("only_if_empty"))
    if not only_if_empty:
        context.config.print_stdout("Database: %s", dialect.describe(connection))
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,  # SQLite cannot alter a column
        transactional_ddl=True,  # SQLite can
    )
    upgrading = dialect.upgrading(connection, patient=not only_if_empty)
    with context.begin_transaction(), upgrading:
        # Another service may have made the tables while this one waited.
        if not (only_if_empty and context.get_context().get_current_heads()):
            context.run_migrations()


with engine.connect() as connection:
    try:
        run(connection)
    finally:
        connection.invalidate()  # no request gets it with the settings made here
