"""What an error of the database means: a status, a sentence, a line in the log."""

import sqlite3
import time
from logging import getLogger

from fastapi import HTTPException
from sqlalchemy import exc
from sqlalchemy.orm.exc import StaleDataError

logger = getLogger("uvicorn.error")
RETRY = {"Retry-After": "1"}
OUTAGE = "The database does not answer"
BUSY = "no session became free"
STALE = "It has changed meanwhile: read it again"
TAKEN = "Another one has this value already"
REFERRED = "It refers to what is not there, or something refers to it"
TOO_LARGE = "A value cannot be stored: it is too large, or of another kind"
REFUSED = {"type": "refused", "loc": [], "msg": TOO_LARGE}  # in FastAPI's shape of 422
# Of SQLSTATE: unique, exclusion, foreign key, RESTRICT.
CONFLICTS = {"23505": TAKEN, "23P01": TAKEN, "23503": REFERRED, "23001": REFERRED}
DIVISION_BY_ZERO = "22012"  # a mistake, though its class is that of values
FAILED_TRANSACTION, PREREQUISITE = "25P02", "55000"
MISSING_RIGHT = "42501"


class NotReadyError(Exception):
    """The database cannot be used at the moment; the message says why."""


class OutageLog:
    """Says once that an outage begins, and why, and once that it is over."""

    def __init__(self) -> None:
        self.reasons: set[str] = set()
        self.refused: set[str] = set()  # kinds of requests: reads, writes
        self.last = 0.0

    def begin(self, reason: str, kind: str) -> None:
        """Note that a request was refused; write a reason that is new."""
        if reason not in self.reasons:
            logger.error("%s: %s", OUTAGE, reason)
        self.reasons.add(reason)
        self.refused.add(kind)
        self.last = time.monotonic()

    def end(self, kind: str) -> None:
        """Note that a request was served: writes may be refused while reads are not.

        With too many requests, some are served all the time.
        """
        if not self.reasons:
            return
        self.refused.discard(kind)
        quiet = BUSY not in self.reasons or time.monotonic() - self.last > 2
        if quiet and not self.refused:
            self.reasons.clear()
            logger.warning("The database answers again")


outages = OutageLog()


def answer_to(error: Exception, kind: str) -> HTTPException | None:
    """Return 409, 422 or 503, or None to a mistake in the code."""
    if isinstance(error, StaleDataError):
        return HTTPException(409, STALE)
    if sentence := conflict_of(error):
        return HTTPException(409, sentence)
    if is_refused_value(error):
        cause = getattr(error, "orig", error)
        logger.error("A value was refused: %s", type(cause).__name__)
        return HTTPException(422, [REFUSED])
    if not isinstance(error, NotReadyError | exc.TimeoutError | exc.DBAPIError):
        return None
    return None if is_mistake(error) else outage(error, kind)


def outage(error: Exception, kind: str) -> HTTPException:
    """Return 503, and say why in the log."""
    outages.begin(reason_of(error), kind)
    return HTTPException(503, OUTAGE, RETRY)


def reason_of(error: Exception) -> str:
    """Return what the driver says, without SQLAlchemy's statement and link."""
    return str(getattr(error, "orig", None) or error)


def state_of(error: Exception) -> str:
    """Return PostgreSQL's SQLSTATE, empty for anything else."""
    return getattr(getattr(error, "orig", None), "sqlstate", None) or ""


def conflict_of(error: Exception) -> str | None:
    """Say which conflict with other rows this is, or None: NOT NULL and CHECK are none.

    SQLite's codes do not tell RESTRICT from a trigger; how its message begins does.
    """
    if not isinstance(error, exc.IntegrityError):
        return None
    message = str(error.orig)
    if message.startswith("UNIQUE constraint failed"):
        return TAKEN
    if message.startswith("FOREIGN KEY constraint failed"):
        return REFERRED
    return CONFLICTS.get(state_of(error))


def is_refused_value(error: Exception) -> bool:
    """Tell whether the database cannot take a value, as a number of 65 bits.

    psycopg itself refuses NUL in a text, sqlite3 a number; neither has a code.
    """
    if isinstance(error, OverflowError):
        return "SQLite INTEGER" in str(error)
    if not isinstance(error, exc.DataError):
        return False
    state = state_of(error)
    return state != DIVISION_BY_ZERO and (not state or state.startswith("22"))


def is_mistake(error: Exception) -> bool:
    """Tell whether a database blames the statement: not itself, a lock or the network.

    PEP 249 has classes for that. SQLite also reports mistakes as OperationalError, by
    its codes ERROR, MISUSE and RANGE; PostgreSQL in a failed transaction and for a
    "prerequisite state". A right that the role has not is no mistake in the code.
    """
    if not isinstance(error, exc.DBAPIError) or conflict_of(error):
        return False
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
    state = state_of(error)
    if state == MISSING_RIGHT or is_refused_value(error):
        return False
    blamed = exc.ProgrammingError | exc.DataError | exc.IntegrityError
    return (
        isinstance(error, blamed | exc.NotSupportedError)
        or code in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISUSE, sqlite3.SQLITE_RANGE)
        or state in (FAILED_TRANSACTION, PREREQUISITE)
    )
