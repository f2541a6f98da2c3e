"""Whether the database has the tables of this version, made by `migrations/`."""

import threading
from contextlib import suppress
from logging import getLogger

from alembic.command import upgrade
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    Constraint,
    Engine,
    Inspector,
    Table,
    UniqueConstraint,
    inspect,
)
from sqlalchemy.exc import DBAPIError

from models import Base, User
from production.settings import LOCK_TIMEOUT, ROOT
from production.sql.errors import NotReadyError, reason_of

UPGRADE = "run `alembic upgrade head`"
STRANGERS = "there are tables that `alembic upgrade head` did not make"
alembic = Config(toml_file=ROOT / "pyproject.toml", attributes={"only_if_empty": True})
steps = ScriptDirectory.from_config(alembic)
one_at_a_time = threading.Lock()  # Alembic's commands are not made for threads


class Tables:
    """What is known of the tables."""

    ready = False  # they were right once: what is missing now was there
    engines: tuple[Engine, ...] = ()  # the standbys', if there are any, last

    def check_any(self) -> None:
        """Check the primary, or else a standby: reads can begin without the primary.

        Raises what was wrong with the primary.
        """
        first, *others = self.engines
        try:
            self.check(first)
        except (NotReadyError, DBAPIError):
            for other in others:
                with suppress(NotReadyError, DBAPIError):
                    self.check(other)
                    return
            raise

    def check(self, engine: Engine) -> None:
        """See that the tables are those of this version; make them if there are none.

        Never alters tables that are there. Raises NotReadyError if they are behind or
        not Alembic's, and DBAPIError if the database does not answer.
        """
        found, versions = look(engine)
        if User.__tablename__ not in found and not self.ready:
            make_if_empty(engine)
            found, versions = look(engine)  # another service may just have made them
        if User.__tablename__ not in found:
            others = f"there are only other tables: {UPGRADE}"
            gone = versions or self.ready
            raise NotReadyError("tables are missing: users" if gone else others)
        if not versions:
            raise NotReadyError(STRANGERS)
        if not versions <= {step.revision for step in steps.walk_revisions()}:
            self.check_unknown(engine)
        elif versions != set(steps.get_heads()):
            raise NotReadyError(f"the tables are behind: {UPGRADE}")
        self.ready = True

    def check_unknown(self, engine: Engine) -> None:
        """See whether tables of an unknown version are ours, and newer."""
        if self.ready:
            return
        with engine.connect() as connection:
            inspector = inspect(connection)
            if not all(fits(inspector, table) for table in Base.metadata.sorted_tables):
                raise NotReadyError(STRANGERS)
        getLogger("uvicorn.error").warning("The tables are newer than this service")


tables = Tables()


def look(engine: Engine) -> tuple[set[str], set[str]]:
    """Return the names of the tables, and the versions that Alembic has noted."""
    with engine.connect() as connection:
        names = inspect(connection).get_table_names()
        heads = MigrationContext.configure(connection).get_current_heads()
        if User.__tablename__ not in names:
            connection.invalidate()
    return set(names), set(heads)


def fits(inspector: Inspector, model: Table) -> bool:
    """Tell whether a table has all that its model needs, and no more to be filled."""
    if not inspector.has_table(model.name):
        return False
    columns = inspector.get_columns(model.name)
    found = {column["name"] for column in columns}
    to_be_filled = {
        column["name"]
        for column in columns
        if not column["nullable"] and column["default"] is None
    }
    known = set(model.columns.keys())
    uniques = inspector.get_unique_constraints(model.name)
    ours = {each.name for each in model.constraints if is_unique(each)}
    has_ours = ours <= {unique["name"] for unique in uniques}
    return known <= found and to_be_filled <= known and has_ours


def is_unique(constraint: Constraint) -> bool:
    """Tell the unique constraints from the others."""
    return isinstance(constraint, UniqueConstraint)


def make_if_empty(engine: Engine) -> None:
    """Make the tables. Raises NotReadyError if the database refuses."""
    if not one_at_a_time.acquire(timeout=LOCK_TIMEOUT / 2):
        raise NotReadyError("the tables are being made")
    try:
        found, versions = look(engine)  # another request may have made them
        if not versions | (found - {"alembic_version"}):
            upgrade(alembic, "head")
    except DBAPIError as error:
        reason = reason_of(error)
        raise NotReadyError(f"the tables cannot be made: {reason}") from error
    finally:
        one_at_a_time.release()
