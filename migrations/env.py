"""What Alembic runs for each of its commands, to reach the database and the models."""

from alembic import context

from database import schema_change
from models import Base

with schema_change() as connection:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,  # SQLite cannot alter a column
    )
    context.run_migrations()
