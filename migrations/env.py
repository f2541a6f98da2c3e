"""What Alembic runs for each of its commands, to reach the database and the models."""

from alembic import context

from database import read_engine
from models import Base
from production.dialects import dialect

with read_engine.connect() as connection:
    connection.detach()  # from the pool: no request gets it with the settings made here
    for statement in dialect.begin_upgrade:
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
