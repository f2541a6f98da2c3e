"""The users service: the app, its endpoints, and how a failure becomes a status.

Run it with `uvicorn main:app --reload`, then open http://localhost:8000/docs.
"""

import asyncio
import logging
import os
import re
import secrets
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, cast

import sqlalchemy as sa
from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi_offline import FastAPIOffline
from sqlalchemy import exc
from sqlalchemy.orm import Session
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from database import HealthSession, ReadSession, WriteSession, arrived, json_page, upgrade
from models import User
from schemas import Health, Problem, UserCreate, UserId, UserQuery, UserRead, UserUpdate

API_TOKEN = os.environ.get("API_TOKEN")
BODY_BYTES, BODY_SECONDS = 64 * 1024, 5  # at most; the longest valid user is far below
logger = logging.getLogger("uvicorn.error")


async def prepare() -> None:
    """Bring the tables up to date, however long the database takes to be there."""
    while True:
        try:
            return await run_in_threadpool(upgrade)
        except (exc.OperationalError, exc.InterfaceError, exc.InternalError) as error:
            logger.warning("The database is not ready yet: %s", error.orig)
            await asyncio.sleep(0.5)


def give_up(preparing: asyncio.Task[None]) -> None:
    """Stop the service if its tables cannot be brought up to date by waiting."""
    if not preparing.cancelled() and (error := preparing.exception()):
        logger.critical("The tables cannot be brought up to date: %s", error)
        signal.raise_signal(signal.SIGTERM)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Start when the database is ready, or answer 503 until it is."""
    if not API_TOKEN:
        logger.warning("API_TOKEN is not set: whoever reaches this port may change the users")
    preparing = asyncio.create_task(prepare())
    await asyncio.wait([preparing], timeout=5)
    if preparing.done():
        await preparing  # raises what went wrong
    preparing.add_done_callback(give_up)
    yield
    preparing.cancel()


# FastAPI, with the pages of /docs served from this machine rather than from somebody's CDN.
app = FastAPIOffline(
    title="Users",
    version="1.0.0",
    lifespan=lifespan,
    redirect_slashes=False,  # the redirect would repeat whatever Host the client claims
    generate_unique_id_function=lambda route: route.name,
    responses={503: {"model": Problem, "description": "The database does not answer"}},
)
bearer = HTTPBearer(description="The `API_TOKEN` that the service was started with")


async def authorize(sent: Annotated[HTTPAuthorizationCredentials, Depends(bearer)]) -> None:
    """Ask for the API_TOKEN (RFC 6750), in a time that tells nothing about it."""
    if not secrets.compare_digest(sent.credentials.encode(), str(API_TOKEN).encode()):
        raise bearer.make_not_authenticated_error()


def private(*statuses: int) -> dict[str, Any]:
    """Let an endpoint ask for the API_TOKEN, and document in OpenAPI how it may refuse."""
    refusals: dict[int | str, Any] = {
        status: {"model": Problem} if status >= 400 else {} for status in statuses
    }
    if not API_TOKEN:
        return {"responses": refusals}
    return {"responses": refusals | {401: {"model": Problem}}, "dependencies": [Depends(authorize)]}


# The statements, built once: SQLAlchemy would need longer to build most of them than to run them.
# They are about the table, not the class: what goes out is rows, and needs no objects.
users = cast(sa.Table, User.__table__)
ONE_USER = sa.select(users).where(users.c.id == sa.bindparam("user_id"))
NEW_USER = sa.insert(users).returning(users)


def page_of_users(*filters: sa.ColumnElement[bool]) -> sa.Select[str, int]:
    """Select the JSON of at most `limit` users after the id `after`, and how to go on."""
    fields = [users.c[field] for field in UserRead.model_fields]
    page = sa.select(*fields).where(users.c.id > sa.bindparam("after"), *filters)
    return json_page(page.order_by(users.c.id), sa.bindparam("limit", type_=sa.Integer))


USERS = page_of_users()
USERS_BY_EMAIL = page_of_users(users.c.email == sa.bindparam("email"))
IfMatch = Annotated[
    str | None,
    Header(max_length=1000, description="Only if the user's `ETag` is still one of these"),
]


@app.get("/users", response_model=list[UserRead], **private())
@app.get("/users/", include_in_schema=False, **private())
def read_users(query: Annotated[UserQuery, Query()], db: ReadSession) -> Response:
    """List users in the order of their ids, a page at a time.

    While there are more, the `Link` header (RFC 8288) has the address of the next page.
    """
    statement = USERS if query.email is None else USERS_BY_EMAIL
    page, after = db.execute(statement, query.model_dump()).one()
    link = {"Link": f'</users?limit={query.limit}&after={after}>; rel="next"'} if after else {}
    return Response(page, headers=link, media_type="application/json")


@app.post("/users", status_code=201, response_model=UserRead, **private(400, 408, 409, 413))
@app.post("/users/", include_in_schema=False, **private())
def create_user(new: UserCreate, db: WriteSession) -> Response:
    """Add a user. The answer has its address in `Location`, and its version in `ETag`.

    If the e-mail is taken, `Location` has the user that has it: a client that lost the answer
    can send the same request again.
    """
    try:
        user = db.execute(NEW_USER, new.model_dump()).one()
    except exc.IntegrityError as error:
        raise email_taken(db, error, new.email) from None
    db.commit()
    return answer(user, 201, Location=f"/users/{user.id}")


@app.get("/users/{user_id}", response_model=UserRead, **private(304, 404))
def read_user(
    user_id: UserId,
    db: ReadSession,
    if_none_match: Annotated[
        str | None, Header(description="Answer 304 if the user's `ETag` is one of these")
    ] = None,
) -> Response:
    """Get one user, with its version in `ETag`."""
    user = db.execute(ONE_USER, {"user_id": user_id}).one_or_none()
    if user is None:
        raise HTTPException(404, "No such user")
    found = answer(user)
    # A weak tag, W/"1", matches too: RFC 9110, 13.1.2.
    if if_none_match and (if_none_match.strip() == "*" or found.headers["ETag"] in if_none_match):
        return Response(status_code=304, headers={"ETag": found.headers["ETag"]})
    return found


@app.patch("/users/{user_id}", response_model=UserRead, **private(400, 404, 408, 409, 412, 413))
def update_user(
    user_id: UserId, change: UserUpdate, db: WriteSession, if_match: IfMatch = None
) -> Response:
    """Change the name, the e-mail or both. The answer has the new version in `ETag`.

    With `If-Match`, only if nobody else changed the user since you read that `ETag`.
    """
    values = change.model_dump()
    try:
        user = db.execute(
            sa.update(users)
            .where(users.c.id == user_id, unchanged(if_match))
            .values(**values, version=users.c.version + 1)
            .returning(users)
        ).one_or_none()
    except exc.IntegrityError as error:
        raise email_taken(db, error, values.get("email")) from None
    if user is None:
        raise not_written(db, user_id)
    db.commit()
    return answer(user)


@app.delete("/users/{user_id}", status_code=204, **private(404, 412))
def delete_user(user_id: UserId, db: WriteSession, if_match: IfMatch = None) -> None:
    """Delete a user. Its id is never given out again."""
    gone = db.execute(
        sa.delete(users).where(users.c.id == user_id, unchanged(if_match)).returning(users.c.id)
    ).one_or_none()
    if gone is None:
        raise not_written(db, user_id)
    db.commit()


@app.get("/health", response_model=Health)
def health(db: HealthSession) -> Any:
    """Tell whether the service and its database answer."""
    db.execute(sa.select(1))
    return {"status": "ok"}


def answer(user: Any, status: int = 200, **headers: str) -> Response:
    """Send a user, with its version in HTTP's way, an entity tag (RFC 9110, 8.8.3)."""
    body = UserRead.model_validate(user).model_dump_json()
    headers["ETag"] = f'"{user.version}"'
    return Response(body, status, headers, "application/json")


def unchanged(if_match: str | None) -> sa.ColumnElement[bool]:
    """Turn If-Match (RFC 9110, 13.1.1) into a condition, which the write itself then checks."""
    if if_match is None or if_match.strip() == "*":
        return sa.true()
    # A weak tag, W/"1", never matches here; nor does anything that answer() did not write.
    strong = re.findall(r'(?<!W/)"([1-9][0-9]{0,17})"', if_match)
    return users.c.version.in_([int(version) for version in strong])


def not_written(db: Session, user_id: int) -> HTTPException:
    """Say why a write found no row: no such user, or no longer in the version asked for."""
    db.rollback()
    if db.execute(ONE_USER, {"user_id": user_id}).one_or_none() is None:
        return HTTPException(404, "No such user")
    return HTTPException(412, "The user has changed since you read it")


def email_taken(db: Session, error: exc.IntegrityError, email: str | None) -> HTTPException:
    """Tell whose e-mail it is; raise `error` again if it is about something else.

    Both databases name the column in the first line: `users.email` or `uq_users_email`.
    """
    if not re.search(r"\busers\.email\b|\buq_users_email\b", str(error.orig).partition("\n")[0]):
        raise error
    db.rollback()
    owner = db.scalar(sa.select(users.c.id).where(users.c.email == email))
    headers = {"Location": f"/users/{owner}"} if owner else None  # it may just have been deleted
    return HTTPException(409, "This e-mail is taken", headers)


@app.exception_handler(RequestValidationError)
def refuse(_: Request, error: RequestValidationError) -> JSONResponse:
    """Answer 422 in FastAPI's shape, but repeat nothing of what came in.

    What came in may be a megabyte, a secret, or NaN, which has no place in JSON.
    """
    detail = [
        {
            "type": fault["type"],
            # The name of an unknown field is the client's, too.
            "loc": fault["loc"][:-1] if fault["type"] == "extra_forbidden" else fault["loc"],
            # What follows the colon quotes the e-mail that was refused.
            "msg": fault["msg"].partition(":")[0],
        }
        for fault in error.errors()
    ]
    return JSONResponse({"detail": detail}, 422)


@app.exception_handler(exc.OperationalError)  # away, locked, deadlock, serialization failure, …
@app.exception_handler(exc.InterfaceError)  # the connection broke
@app.exception_handler(exc.InternalError)  # no longer the primary, and read-only
@app.exception_handler(exc.ProgrammingError)  # no tables yet
@app.exception_handler(exc.NotSupportedError)  # a prepared statement of before a schema change
@app.exception_handler(exc.TimeoutError)  # no session or connection became free
def unavailable(_: Request, error: Exception) -> JSONResponse:
    """Answer 503 when the database is away, locked or has no connection left."""
    logger.error("The database does not answer: %s", getattr(error, "orig", error))
    return JSONResponse({"detail": "The database does not answer"}, 503, {"Retry-After": "1"})


@app.exception_handler(405)
def method_not_allowed(request: Request, _: HTTPException) -> JSONResponse:
    """Name every method of the address in `Allow` (RFC 9110, 15.5.6), not just one route's."""
    allowed = {
        method
        for route in app.routes
        if route.matches(request.scope)[0] is not Match.NONE
        for method in getattr(route, "methods", None) or ()
    }
    headers = {"Allow": ", ".join(sorted(allowed))}
    return JSONResponse({"detail": "Method Not Allowed"}, 405, headers)


class BodyLimit:
    """Refuse a body that is too long, or that does not come.

    FastAPI's max_body_size knows no time, and does not answer in JSON if the length was declared.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on, but raise HTTPException where the endpoint would wait for more."""
        arrived.set(time.monotonic())
        length = 0
        deadline: float | None = asyncio.get_running_loop().time() + BODY_SECONDS

        async def limited() -> Message:
            nonlocal length, deadline
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "The body did not come", {"Connection": "close"}) from None
            length += len(message.get("body", b""))
            if length > BODY_BYTES:
                raise HTTPException(413, "The body is too long")
            if not message.get("more_body"):
                deadline = None  # what comes next is that the client has gone
                arrived.set(time.monotonic())
            return message

        await self.app(scope, limited, send)


app.add_middleware(BodyLimit)
