"""Which failure becomes which answer."""

import re
from typing import Any

from asgi_correlation_id import correlation_id
from fastapi import Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from sqlalchemy import exc
from sqlalchemy.orm.exc import StaleDataError
from starlette.routing import Match

from production.http.access import refused
from production.sql.errors import NotReadyError, answer_to
from production.sql.session import DatabaseUse

JSON = r"application/(.+\+)?json\s*"
NO_JSON = "Send JSON, with the header Content-Type: application/json"


async def database_error(request: Request, error: Exception) -> Response:
    """Answer an outage or a conflict in a session opened without `get_db`."""
    use = request.scope.get("database use") or DatabaseUse()
    answer = answer_to(error, use.kind)
    if not answer:
        raise error
    return await http_exception_handler(request, answer)


async def mistake(_: Request, __: Exception) -> Response:
    """Answer 500. The log has the traceback; uvicorn closes the connection."""
    headers = {"Connection": "close"}
    if number := correlation_id.get():  # this is made outside of the middleware
        headers["X-Request-ID"] = number
    return refused(500, "Internal Server Error", headers)


async def invalid(request: Request, error: RequestValidationError) -> Response:
    """Answer 422 as FastAPI does, but repeat nothing of what came in: it may be secret.

    415 if a body should be JSON and is not declared as such (RFC 9110, 15.5.16).
    """
    faults = error.errors()
    media_type = request.headers.get("content-type", "").partition(";")[0]
    declared = re.fullmatch(JSON, media_type, re.IGNORECASE)
    if error.body and not declared and any(one["loc"] == ("body",) for one in faults):
        return refused(415, NO_JSON)
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
    StaleDataError: database_error,
    exc.DBAPIError: database_error,
    exc.TimeoutError: database_error,
    NotReadyError: database_error,
    Exception: mistake,
}
