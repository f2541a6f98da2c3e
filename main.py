"""The users service. Run it with `uvicorn main:app --reload`, then open http://localhost:8000."""

import os
import re
import secrets
from asyncio import CancelledError
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from logging import getLogger
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi_offline import FastAPIOffline
from sqlalchemy import bindparam, exc, insert, select
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from database import get_db, is_outage, is_taken, json_page, read_engine
from migrations import TablesError, check_tables
from models import User
from schemas import ANSWERS, PAGE, Tags, UserCreate, UserId, UserQuery, UserRead, UserUpdate, docs

API_TOKEN = os.environ.get("API_TOKEN", "")
if not re.fullmatch("[!-~]*", API_TOKEN):
    raise ValueError("API_TOKEN has a character that no client can send: use ASCII, no blanks")
MAX_BODY = 64 * 1024  # bytes; the longest valid user is far below
logger = getLogger("uvicorn.error")


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Give an empty database its tables. If that has to wait, requests are answered 503."""
    if not API_TOKEN:
        logger.warning("API_TOKEN is not set: whoever reaches this port may change the users")
    try:
        await run_in_threadpool(check_tables, read_engine)
    except (TablesError, exc.DBAPIError) as error:
        logger.error("Not ready yet: %s", getattr(error, "orig", error))
    app.openapi()["security"] = []  # where an operation names no scheme, it asks for no token
    yield


# FastAPI, with the pages of /docs served from this machine rather than from somebody's CDN.
app = FastAPIOffline(
    title="Users",
    version="1.0.0",
    description="Users with a name and an e-mail address, which no two of them share.",
    contact={"name": "The maintainers"},
    license_info={"name": "MIT", "identifier": "MIT"},
    servers=[{"url": "/"}],
    openapi_tags=[{"name": "users"}, {"name": "health"}],
    lifespan=lifespan,
    max_body_size=MAX_BODY,
    redirect_slashes=False,  # the redirect would repeat whatever Host the client claims
    generate_unique_id_function=lambda route: route.name,
    responses={status: ANSWERS[status] for status in (413, 422, 503)},
)
# scope="function" closes the session before the answer is sent: a slow client holds nothing.
SessionDep = Annotated[Session, Depends(get_db, scope="function")]
bearer = HTTPBearer(description="The `API_TOKEN` that the service was started with")


async def authorize(sent: Annotated[HTTPAuthorizationCredentials, Depends(bearer)]) -> None:
    """Ask for the API_TOKEN (RFC 6750), in a time that tells nothing about it."""
    if not secrets.compare_digest(sent.credentials.encode(), API_TOKEN.encode()):
        raise bearer.make_not_authenticated_error()


if API_TOKEN:  # every endpoint of the app asks for it; those of `public` do not
    app.router.dependencies.append(Depends(authorize))
    app.router.responses[401] = ANSWERS[401]
public = APIRouter(responses={status: ANSWERS[status] for status in (413, 503)})


@app.get("/users", **docs("List users", ok=PAGE))
@app.get("/users/", include_in_schema=False)
def read_users(query: Annotated[UserQuery, Query()], db: SessionDep) -> Response:
    """List users in the order of their ids, a page at a time.

    While there are more, the `Link` header (RFC 8288) has the address of the next page.
    """
    statement = USERS_BY_EMAIL if "email" in query.model_fields_set else USERS
    page, last = db.connection().execute(statement, query.model_dump()).one()
    link = {"Link": f'<?limit={query.limit}&after={last}>; rel="next"'} if last else {}
    return Response(page, headers=link, media_type="application/json")


@app.post("/users", status_code=201, **docs("Add a user", 201, 400, 409))
@app.post("/users/", include_in_schema=False)
def create_user(new: UserCreate, db: SessionDep, request: Request) -> Response:
    """Add a user. The answer has its address in `Location`, and its version in `ETag`.

    If the e-mail is taken, `Location` has the user that has it: a client that lost the answer
    can send the same request again.
    """
    with unique_email(new.email, db, request):
        user = db.connection().execute(NEW_USER, new.model_dump()).one()
    db.commit()
    return send_user(user, 201, Location=f"{request.scope['root_path']}/users/{user.id}")


@app.get("/users/{user_id}", **docs("Get a user", 200, 304, 404))
def read_user(user_id: UserId, db: SessionDep, if_none_match: Tags = None) -> Response:
    """Get one user, with its version in `ETag`, or 304 if `If-None-Match` has that already."""
    user = db.connection().execute(ONE_USER, {"user_id": user_id}).one_or_none()
    if user is None:
        raise HTTPException(404, "No such user")
    # A weak tag, W/"1", matches too: RFC 9110, 13.1.2.
    if if_none_match and {"*", etag(user), f"W/{etag(user)}"} & {*if_none_match}:
        return Response(status_code=304, headers={"ETag": etag(user)})
    return send_user(user)


@app.patch("/users/{user_id}", **docs("Change a user", 200, 400, 404, 409, 412))
def update_user(
    user_id: UserId, change: UserUpdate, db: SessionDep, request: Request, if_match: Tags = None
) -> Response:
    """Change the name, the e-mail or both. The answer has the new version in `ETag`.

    With `If-Match`, only if nobody else changed the user since you read that `ETag`.
    """
    user = get_user(user_id, if_match, db)
    for field, value in change.model_dump().items():
        setattr(user, field, value)
    with unique_email(user.email, db, request):
        db.flush()
    changed = send_user(user)
    db.commit()
    return changed


@app.delete("/users/{user_id}", status_code=204, **docs("Delete a user", 404, 412))
def delete_user(user_id: UserId, db: SessionDep, if_match: Tags = None) -> None:
    """Delete a user; with `If-Match`, only in that version. Its id is never given out again."""
    db.delete(get_user(user_id, if_match, db))
    db.commit()


@public.get("/health", tags=["health"], summary="Check the service", operation_id="health")
def read_health(db: SessionDep) -> dict[str, str]:
    """Tell whether the database answers, with the tables of this version."""
    check_tables(read_engine)
    db.scalars(select(User).limit(1)).all()
    return {"status": "ok"}


@public.get("/", include_in_schema=False)
def read_root(request: Request) -> Response:
    """Lead to the documentation: this is the address that uvicorn prints."""
    return RedirectResponse(f"{request.scope['root_path']}/docs")


app.router.routes.extend(public.routes)

# Statements that are built once, which saves up to 0.8 ms a request. They are run on the session's
# connection: what the ORM does to their rows would take 0.05 ms more, 0.2 ms for the insert.
FIELDS = [getattr(User, field) for field in UserRead.model_fields]
USERS, USERS_BY_EMAIL = json_page(FIELDS), json_page(FIELDS, User.email == bindparam("email"))
ONE_USER = select(*FIELDS, User.version).where(User.id == bindparam("user_id"))
NEW_USER = insert(User).returning(*FIELDS, User.version)


def get_user(user_id: int, if_match: Tags, db: Session) -> User:
    """Get the user to write to, locked, or raise 404, or 412 by If-Match (RFC 9110, 13.1.1)."""
    user = db.get(User, user_id, with_for_update=True)
    if user is None:
        raise HTTPException(404, "No such user")
    if if_match is not None and not {"*", etag(user)} & {*if_match}:
        raise HTTPException(412, "The user has changed since you read it")
    return user


def send_user(user: Any, status: int = 200, **headers: str) -> Response:
    """Send a user, with its version. Without this, FastAPI takes 0.2 ms to send an object."""
    body = UserRead.model_validate(user).model_dump_json()
    return Response(body, status, headers | {"ETag": etag(user)}, "application/json")


def etag(user: Any) -> str:
    """Say the version of a user in HTTP's way, an entity tag (RFC 9110, 8.8.3)."""
    return f'"{user.version}"'


@contextmanager
def unique_email(email: str, db: Session, request: Request) -> Iterator[None]:
    """Raise 409 if another user has this e-mail, with the address of that user."""
    try:
        yield
    except exc.IntegrityError as error:
        if not is_taken(error, User.email):
            raise
        db.rollback()
        owner = db.scalar(select(User.id).where(User.email == email))  # None: just deleted
        headers = {"Location": f"{request.scope['root_path']}/users/{owner}"} if owner else None
        raise HTTPException(409, "This e-mail is taken", headers) from None


@app.exception_handler(exc.DBAPIError)
@app.exception_handler(exc.TimeoutError)  # no connection became free
@app.exception_handler(TimeoutError)  # no turn came in time
@app.exception_handler(TablesError)
def unavailable(_: Request, error: Exception) -> JSONResponse:
    """Answer 503, and say why in the log. A mistake in the code is no outage: it becomes 500."""
    if isinstance(error, exc.DBAPIError) and not is_outage(error):
        raise error
    reason = getattr(error, "orig", error)
    logger.error("The database does not answer: %s", str(reason) or "no session became free")
    return JSONResponse({"detail": "The database does not answer"}, 503, {"Retry-After": "1"})


@app.exception_handler(StaleDataError)
def changed_meanwhile(_: Request, __: StaleDataError) -> JSONResponse:
    """Answer 409: another request changed the object after this one had read it."""
    return JSONResponse({"detail": "It has changed meanwhile: read it again"}, 409)


@app.exception_handler(Exception)
def mistake(_: Request, __: Exception) -> JSONResponse:
    """Answer 500. The traceback is in the log, and uvicorn closes the connection after it."""
    return JSONResponse({"detail": "Internal Server Error"}, 500, {"Connection": "close"})


@app.exception_handler(RequestValidationError)
def refuse(_: Request, error: RequestValidationError) -> JSONResponse:
    """Answer 422 as FastAPI does, but repeat nothing of what came in, which may be a secret."""
    detail = [{key: fault[key] for key in ("type", "loc", "msg")} for fault in error.errors()]
    for fault in detail:
        if fault["type"] == "extra_forbidden":
            fault["loc"] = fault["loc"][:-1]  # the name of an unknown field came in, too
    return JSONResponse({"detail": detail}, 422)


@app.exception_handler(405)
def method_not_allowed(request: Request, _: HTTPException) -> JSONResponse:
    """Name every method of the address in `Allow` (RFC 9110, 15.5.6), not just one route's."""
    allowed = []
    for method in ("DELETE", "GET", "PATCH", "POST", "PUT"):
        scope = {**request.scope, "method": method}
        if any(route.matches(scope)[0] is Match.FULL for route in app.routes):
            allowed += ["GET", "HEAD"] if method == "GET" else [method]
    return JSONResponse({"detail": "Method Not Allowed"}, 405, {"Allow": ", ".join(allowed)})


def at_the_door(app: ASGIApp) -> ASGIApp:
    """Answer HEAD as GET (RFC 9110, 9.3.2), 413 before a long body, and 503 at a late stop."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if int(dict(scope.get("headers", ())).get(b"content-length", 0)) > MAX_BODY:
            # FastAPI refuses it when the body is read, which a DELETE never does.
            return await Response(status_code=413)(scope, receive, send)
        method = "GET" if scope.get("method") == "HEAD" else scope.get("method")
        try:
            await app({**scope, "method": method}, receive, send)
        except CancelledError:  # which uvicorn would log with a traceback
            with suppress(RuntimeError):  # the answer had started
                stopping = JSONResponse({"detail": "The service stops"}, 503, {"Retry-After": "1"})
                await stopping(scope, receive, send)

    return serve


app.add_middleware(at_the_door)
