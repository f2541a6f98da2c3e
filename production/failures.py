"""Which failure becomes which answer."""

import re
from logging import getLogger
from typing import Any

from fastapi import HTTPException, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from sqlalchemy import exc
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.orm.exc import StaleDataError
from starlette.routing import Match

logger = getLogger("uvicorn.error")
RETRY = {"Retry-After": "1"}
RIGHTS = {"schema": "USAGE, CREATE", "table": "SELECT, INSERT, UPDATE, DELETE"}
JSON = r"application/(.+\+)?json\s*"


class NotReadyError(Exception):
    """The database cannot be used at the moment; the message says why."""


def refused(
    status: int, detail: str, headers: dict[str, str] | None = None
) -> Response:
    """Return a refusal in the shape of FastAPI's."""
    return JSONResponse({"detail": detail}, status, headers)


def answer_to(error: Exception) -> HTTPException | None:
    """Return the answer to an outage or a conflict, None to a mistake in the code."""
    if isinstance(error, StaleDataError):
        return HTTPException(409, "It has changed meanwhile: read it again")
    if isinstance(error, NotReadyError | exc.TimeoutError | exc.DBAPIError):
        return None if is_mistake(error) else outage(error)
    return None


def outage(error: Exception) -> HTTPException:
    """Return 503, and say why in the log."""
    logger.error("The database does not answer: %s", reason_of(error))
    return HTTPException(503, "The database does not answer", RETRY)


def reason_of(error: Exception) -> str:
    """Return what the driver says, without SQLAlchemy's statement and link."""
    reason = str(getattr(error, "orig", None) or error)
    if denied := re.match(r"permission denied for (schema|table) (\w+)", reason):
        kind, name = denied.groups()
        rights = "SELECT" if name == "alembic_version" else RIGHTS[kind]
        return f"{reason}: GRANT {rights} ON {kind} {name} TO the service's role"
    return reason


def is_mistake(error: Exception) -> bool:
    """Tell whether a database blames the statement: not itself, a lock or the network.

    PEP 249 has classes for that. SQLite also reports mistakes as OperationalError, by
    its codes ERROR, MISUSE and RANGE; PostgreSQL in a failed transaction and for a
    "prerequisite state". A right that the role has not is no mistake in the code.
    """
    if not isinstance(error, exc.DBAPIError):
        return False
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
    state = getattr(error.orig, "sqlstate", None)
    if state == "42501":
        return False
    blamed = exc.ProgrammingError | exc.DataError | exc.IntegrityError
    return (
        isinstance(error, blamed | exc.NotSupportedError)
        or code in (1, 21, 25)
        or state in ("25P02", "55000")
    )


def is_taken(error: exc.IntegrityError, column: InstrumentedAttribute[Any]) -> bool:
    """Tell whether another row has the value of a unique column."""
    # PostgreSQL names the constraint or the index, SQLite the column. What follows
    # in the next line is the value.
    message = str(error.orig).partition("\n")[0]
    name = rf"\b([ui][qx]_)?{column.class_.__tablename__}[._]{column.key}\b"
    return "NOT NULL" not in message and re.search(name, message) is not None


async def answer(request: Request, error: Exception) -> Response:
    """Answer an outage or a conflict in a session opened without `get_db`."""
    found = answer_to(error)
    if not found:
        raise error
    return await http_exception_handler(request, found)


async def mistake(_: Request, __: Exception) -> Response:
    """Answer 500. The log has the traceback; uvicorn closes the connection."""
    return refused(500, "Internal Server Error", {"Connection": "close"})


async def invalid(request: Request, error: RequestValidationError) -> Response:
    """Answer 422 as FastAPI does, but repeat nothing of what came in: it may be secret.

    415 if a body should be JSON and is not declared as such (RFC 9110, 15.5.16).
    """
    faults = error.errors()
    media_type = request.headers.get("content-type", "").partition(";")[0]
    declared = re.fullmatch(JSON, media_type, re.IGNORECASE)
    if error.body and not declared and any(one["loc"] == ("body",) for one in faults):
        sentence = "Send JSON, with the header Content-Type: application/json"
        return refused(415, sentence)
    detail = [{key: one[key] for key in ("type", "loc", "msg")} for one in faults]
    for one in detail:
        if one["type"] == "extra_forbidden":
            one["loc"] = one["loc"][:-1]  # the name of the field came in, too
    return JSONResponse({"detail": detail}, 422)


async def method_not_allowed(request: Request, _: Exception) -> Response:
    """Name every method of the address in `Allow` (RFC 9110, 15.5.6)."""
    allowed = []
    for method in ("DELETE", "GET", "PATCH", "POST", "PUT"):
        scope = {**request.scope, "method": method}
        matches = (route.matches(scope)[0] for route in request.app.routes)
        if Match.FULL in matches:
            allowed += ["GET", "HEAD"] if method == "GET" else [method]
    return refused(405, "Method Not Allowed", {"Allow": ", ".join(allowed)})


HANDLERS: dict[Any, Any] = {
    405: method_not_allowed,
    RequestValidationError: invalid,
    StaleDataError: answer,
    exc.DBAPIError: answer,
    exc.TimeoutError: answer,
    NotReadyError: answer,
    Exception: mistake,
}
