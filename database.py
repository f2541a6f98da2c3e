"""The way to the database: one session for every request."""

from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import create_engine, event
from sqlalchemy.orm import Session, sessionmaker

from production.settings import LOCK_TIMEOUT
from production.sql.databases import primary, standbys
from production.sql.session import (
    for_one_request,
    has_begun,
    note_connection,
    note_one_select,
)
from production.sql.tables import tables

options: dict[str, Any] = {
    "pool_timeout": LOCK_TIMEOUT,
    "pool_recycle": 300,  # seconds: a host that is back gets its share
    "hide_parameters": True,  # names and addresses of people do not belong in a log
}
engine = create_engine(
    primary.url,  # of DATABASE_URL, or of the file users.db
    **primary.options,
    **options,
    pool_size=primary.readers + primary.writers,
    max_overflow=primary.overflow,  # for what lives longer than a request
)
SessionLocal = sessionmaker(autocommit=False, autoflush=False, bind=engine)

# A SELECT is a transaction already: without BEGIN, it is one round trip, not three.
read_engine = create_engine(
    standbys.url,  # of DATABASE_READ_URL, or the same
    **standbys.options,
    **options,
    isolation_level="AUTOCOMMIT",
    skip_autocommit_rollback=True,
    pool_size=primary.readers,
    max_overflow=0,
)
primary.prepare(engine, writes=True)
standbys.prepare(read_engine, writes=False)
tables.engines = (engine,) if standbys is primary else (engine, read_engine)
event.listen(SessionLocal, "after_begin", note_connection)


@for_one_request
async def get_db() -> AsyncIterator[Session]:
    """Open one session for one request, and close it when the request is over.

    `async`, unlike in the lesson: FastAPI sends each half of a plain generator to a
    thread, which takes 1.2 to 1.4 times the CPU.
    """
    db = SessionLocal()
    try:
        yield db
    finally:
        db.close()


def one_select(db: Session) -> dict[str, Any]:
    """Tell `db.scalar`, as `bind_arguments`, that this SELECT is all the work.

    It then reads from `read_engine`. A session that has begun a transaction stays in
    it; one of another engine, as a test has it, keeps its own.
    """
    if db.bind is not engine or has_begun(db):
        return {}
    note_one_select(db, read_engine)
    return {"bind": read_engine}
