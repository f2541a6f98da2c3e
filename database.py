"""The way to the database: one session for every request.

`DATABASE_URL` is `sqlite:///path/to/file.db` or any URL of libpq. If it is not set, the
users are in `users.db`, here. `DATABASE_READ_URL` may lead to standbys of PostgreSQL.
"""

from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.orm import Session, sessionmaker

from production import LOCK_TIMEOUT
from production.dialects import dialect, reads
from production.turns import one_turn

options: dict[str, Any] = {
    "pool_timeout": LOCK_TIMEOUT,
    "hide_parameters": True,  # names and addresses of people do not belong in a log
}
engine = create_engine(
    **dialect.options,
    **options,
    pool_size=dialect.readers + dialect.writers,
    max_overflow=40,  # for what lives longer than a request
)
SessionLocal = sessionmaker(autocommit=False, autoflush=False, bind=engine)

# A SELECT is a transaction already: without BEGIN, it is one round trip, not three.
read_engine = create_engine(
    **reads.options,
    **options,
    isolation_level="AUTOCOMMIT",
    skip_autocommit_rollback=True,
    pool_size=dialect.readers,
    max_overflow=0,
    pool_recycle=300,  # seconds: a standby that is back gets its share
)
dialect.prepare(engine, read_engine)


@one_turn
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
    """Tell `db.execute`, as `bind_arguments`, that this SELECT is all the work.

    A session of another engine, as a test has it, keeps its own.
    """
    return {"bind": read_engine} if db.bind is engine else {}


def note_transaction(db: Session, _: Any, connection: Connection) -> None:
    """Note where the session is, and if its end takes a round trip."""
    db.info["engine"] = connection.engine
    if connection.engine is engine:
        db.info["on_a_server"] = True


if dialect.on_a_server:
    event.listen(SessionLocal, "after_begin", note_transaction)
