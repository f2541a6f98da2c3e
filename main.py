"""The users service. Start it with `uvicorn main:app --reload`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import Depends, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi_offline import FastAPIOffline
from sqlalchemy import bindparam, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from database import get_db, one_select
from models import User
from production.http import openapi
from production.http.errors import HANDLERS
from production.http.lifespan import lifespan
from production.http.middleware import MIDDLEWARE
from production.http.pages import page_of
from production.http.preconditions import Preconditions, etag, preconditions
from production.sql.tables import tables
from schemas import Id, UserCreate, UserQuery, UserRead, UserUpdate

# FastAPI, with a /docs that needs no internet.
app = FastAPIOffline(
    title="Users",
    lifespan=lifespan,
    redirect_slashes=False,  # which would repeat whatever Host is claimed
    middleware=MIDDLEWARE,
    exception_handlers=HANDLERS,
    **openapi.ABOUT,
)
app.openapi = openapi.complete(app)  # type: ignore[method-assign]


@app.get(
    "/users",
    tags=["users"],
    response_model=list[UserRead],
    responses={200: openapi.PAGE},
)
@app.get("/users/", include_in_schema=False)
def read_users(
    query: Annotated[UserQuery, Query()], db: Session = Depends(get_db)
) -> Response:
    """List users by their ids, a page at a time. `Link` has the next page."""
    return page_of(db, User, UserRead, query)


@app.post(
    "/users",
    tags=["users"],
    status_code=201,
    response_model=UserRead,
    responses={201: openapi.CREATED, 409: openapi.TAKEN},
)
@app.post("/users/", include_in_schema=False)
def create_user(
    new: UserCreate, request: Request, db: Session = Depends(get_db)
) -> Response:
    """Add a user. `Location` has its address, and `ETag` its version."""
    user = User(**new.model_dump())
    db.add(user)
    with unique_email(new.email, None, request, db):
        db.flush()
    # Before the commit, after which the session would read the user again.
    response = user_response(user, 201, Location=address_of(user.id, request))
    db.commit()
    return response


@app.get(
    "/users/{user_id}",
    tags=["users"],
    response_model=UserRead,
    responses={404: openapi.NO_USER},
    openapi_extra=openapi.PRECONDITIONS,
)
def read_user(
    user_id: Id,
    conditions: Preconditions = Depends(preconditions),
    db: Session = Depends(get_db),
) -> Response:
    """Get one user, with its version in `ETag`; 304 if `If-None-Match` has that."""
    user = user_or_404(user_id, db)
    conditions.check(user.version)
    return user_response(user)


@app.patch(
    "/users/{user_id}",
    tags=["users"],
    response_model=UserRead,
    responses={404: openapi.NO_USER, 409: openapi.TAKEN},
    openapi_extra=openapi.PRECONDITIONS,
)
def update_user(
    user_id: Id,
    change: UserUpdate,
    request: Request,
    conditions: Preconditions = Depends(preconditions),
    db: Session = Depends(get_db),
) -> Response:
    """Change the name, the e-mail or both. `ETag` has the new version.

    With `If-Match`, only if nobody changed the user since you read that `ETag`.
    """
    user = user_or_404(user_id, db, lock=True)
    conditions.check(user.version)
    for field, value in change.model_dump().items():
        setattr(user, field, value)
    with unique_email(user.email, user_id, request, db):
        db.flush()
    response = user_response(user)
    db.commit()
    return response


@app.delete(
    "/users/{user_id}",
    tags=["users"],
    status_code=204,
    responses={404: openapi.NO_USER, 409: openapi.REFERRED},
    openapi_extra=openapi.PRECONDITIONS,
)
def delete_user(
    user_id: Id,
    conditions: Preconditions = Depends(preconditions),
    db: Session = Depends(get_db),
) -> None:
    """Delete a user; with `If-Match`, only in that version."""
    user = user_or_404(user_id, db, lock=True)
    conditions.check(user.version)
    db.delete(user)
    db.commit()


@app.get("/health", tags=["health"], response_model=dict[str, str])
def health(db: Session = Depends(get_db)) -> Response:
    """Tell whether the database answers, with the tables of this version."""
    reads = one_select(db)
    if reads:  # not the session of a test
        tables.check(reads["bind"])
    db.scalar(ONE_USER, {"user_id": 1}, bind_arguments=reads)
    return JSONResponse({"status": "ok"}, headers={"Cache-Control": "no-store"})


@app.get("/", include_in_schema=False)
def read_root(request: Request) -> Response:
    """Lead to the documentation: this is the address that uvicorn prints."""
    return RedirectResponse(f"{request.scope['root_path']}/docs")


# Built once, with a place for the id: `db.get` takes 0.1 more of the CPU.
ONE_USER = select(User).where(User.id == bindparam("user_id"))
# `db.get` would not see what another request has changed since a login read the user.
LOCKED_USER = ONE_USER.with_for_update(key_share=True).execution_options(
    populate_existing=True
)


def user_or_404(user_id: int, db: Session, *, lock: bool = False) -> User:
    """Return a user; with `lock`, nobody else changes it before the commit."""
    values = {"user_id": user_id}
    if lock:
        user = db.scalar(LOCKED_USER, values)
    else:
        user = db.scalar(ONE_USER, values, bind_arguments=one_select(db))
    if user is None:
        db.rollback()  # the lock is for others
        raise HTTPException(404, "No such user")
    return user


def user_response(user: User, status: int = 200, **headers: str) -> Response:
    """Return a user with its version. FastAPI would take 0.2 ms to write an object."""
    body = UserRead.model_validate(user, from_attributes=True).model_dump_json()
    headers["ETag"] = etag(user.version)
    return Response(body, status, headers, "application/json")


def address_of(user_id: int, request: Request) -> str:
    """Return the path of a user, behind any prefix."""
    return f"{request.scope['root_path']}/users/{user_id}"


@contextmanager
def unique_email(
    email: str, user_id: int | None, request: Request, db: Session
) -> Iterator[None]:
    """Raise 409 if another user has this e-mail, with the address of that user."""
    try:
        yield
    except IntegrityError:
        db.rollback()
        others = select(User.id).where(User.email == email, User.id != user_id)
        owner = db.scalar(others)
        if owner is None:  # something else is in conflict
            raise
        address = {"Location": address_of(owner, request)}
        raise HTTPException(409, "This e-mail is taken", address) from None
