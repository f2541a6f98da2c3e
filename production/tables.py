"""Whether the database has the tables of this version, made by `migrations/`."""

import re
import threading
from logging import getLogger
from pathlib import Path
from typing import Any

from alembic.command import upgrade
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect
from sqlalchemy.exc import DBAPIError

from models import Base, User
from production import LOCK_TIMEOUT
from production.dialects import dialect
from production.failures import NotReadyError, reason_of

UPGRADE = "run `alembic upgrade head`"
alembic = Config(
    toml_file=Path(__file__).parent.with_name("pyproject.toml"),
    attributes={"only_if_empty": True},
)
steps = ScriptDirectory.from_config(alembic)
one_at_a_time = threading.Lock()  # Alembic's commands are not made for threads
known: set[str] = set()  # those of the models that were there when all was well


def look(engine: Engine | Connection) -> tuple[set[str], set[str], str]:
    """Return the tables, the versions that Alembic has noted, and missing rights."""
    with engine.engine.connect() as connection:
        names = inspect(connection).get_table_names()
        heads = MigrationContext.configure(connection).get_current_heads()
        rights = dialect.missing_rights(connection)
    return set(names), set(heads), rights


def check(engine: Engine | Connection) -> None:
    """See that the tables are those of this version; make them in an empty database.

    Never alters tables that are there. Raises NotReadyError if they are behind or
    not Alembic's, and DBAPIError if the database does not answer.
    """
    found, versions, rights = look(engine)
    if User.__tablename__ not in found:
        if not known:
            make_if_empty(engine)
        # Another service may just have made them.
        found, versions, rights = look(engine)
    if not versions and not known - found:
        if User.__tablename__ not in found:
            raise NotReadyError(f"there are only other tables: {UPGRADE}")
        raise NotReadyError("there are tables that `alembic upgrade head` did not make")
    if missing := ({User.__tablename__} | known) - found:
        raise NotReadyError(f"tables are missing: {', '.join(missing)}")
    if not versions <= {step.revision for step in steps.walk_revisions()}:
        if not known:
            logger = getLogger("uvicorn.error")
            logger.warning("The tables are newer than this service")
    elif versions != set(steps.get_heads()):
        raise NotReadyError(f"the tables are behind: {UPGRADE}")
    if rights:
        raise NotReadyError(f"permission denied for table users ({rights})")
    known.update(found & set(Base.metadata.tables))


def make_if_empty(engine: Engine | Connection) -> None:
    """Make the tables. Raises NotReadyError if the database refuses."""
    if not one_at_a_time.acquire(timeout=LOCK_TIMEOUT / 2):
        raise NotReadyError("the tables are being made")
    try:
        found, versions, _ = look(engine)  # another request may have made them
        if not versions | (found - {"alembic_version"}):
            upgrade(alembic, "head")
    except DBAPIError as error:
        reason = reason_of(error)
        raise NotReadyError(f"the tables cannot be made: {reason}") from error
    finally:
        one_at_a_time.release()


def was_away(error: Exception) -> bool:
    """Tell whether a statement did not find a table that was there before."""
    driver: Any = getattr(error, "orig", None)
    undefined = getattr(driver, "sqlstate", None) == "42P01"
    # PostgreSQL says the same of a table that the statement forgot to join.
    if undefined and driver.diag.source_function == "errorMissingRTE":
        return False
    missing = undefined or "no such table" in str(driver)
    return missing and not known.isdisjoint(re.findall(r"\w+", str(driver)))
