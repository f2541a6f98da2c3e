"""Whether a database has the tables of this version. The steps to them are in `versions/`."""

import logging
import threading
from pathlib import Path

import sqlalchemy as sa
from alembic import command, config, migration, script

from models import Base

alembic = config.Config(
    toml_file=Path(__file__).parent.with_name("pyproject.toml"), attributes={"only_if_empty": True}
)
steps = script.ScriptDirectory.from_config(alembic)
one_at_a_time = threading.Lock()  # Alembic's commands are not made for threads
tables: set[str] = set()  # those of the models that were there when all was well


class TablesError(Exception):
    """The tables are missing, or not those of this version."""


def check_tables(engine: sa.Engine) -> None:
    """See that the tables are those of this version, and make them in an empty database.

    Never alters tables that are there. Raises TablesError if they are behind or not Alembic's, and
    DBAPIError if the database does not answer.
    """
    with engine.connect() as connection:
        found = set(sa.inspect(connection).get_table_names())
        versions = set(migration.MigrationContext.configure(connection).get_current_heads())
    if not tables | versions | (found - {"alembic_version"}):
        with one_at_a_time:
            command.upgrade(alembic, "head")
        return check_tables(engine)
    if missing := tables - found:
        raise TablesError(f"tables are missing: {', '.join(missing)}")
    if not versions:
        raise TablesError("there are tables that `alembic upgrade head` did not make")
    if not versions <= {step.revision for step in steps.walk_revisions()}:
        if not tables:
            logging.getLogger("uvicorn.error").warning("The tables are newer than this service")
    elif versions != set(steps.get_heads()):
        raise TablesError("the tables are behind: run `alembic upgrade head`")
    tables.update(found & set(Base.metadata.tables))
    return None
