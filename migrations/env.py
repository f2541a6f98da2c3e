"""What Alembic runs for each of its commands, to reach the database and the models."""

from alembic import context

from database import BEGIN, SQLITE, read_engine
from models import Base

LOCK = [
    # WAL lets reads go on during a write, and the file remembers it.
    "PRAGMA journal_mode = WAL",
    # SQLite alters a table by building another and dropping the first, which must not delete the
    # rows that refer to it. This setting is ignored inside a transaction.
    "PRAGMA foreign_keys = OFF",
    BEGIN,
]
if not SQLITE:
    LOCK = [BEGIN, "SET LOCAL statement_timeout = 0", "SELECT pg_advisory_xact_lock(7236589)"]

with read_engine.connect() as connection:
    connection.detach()  # from the pool: no request gets it with the settings made here
    for statement in LOCK:
        connection.exec_driver_sql(statement)
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,  # SQLite cannot alter a column
    )
    # A service that starts may have waited here while another made the tables.
    only_if_empty = context.config.attributes.get("only_if_empty")
    if not (only_if_empty and context.get_context().get_current_heads()):
        context.run_migrations()
    connection.commit()
