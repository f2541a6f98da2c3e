"""The users service. Start it with `uvicorn main:app --reload`."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Annotated, Any
from urllib.parse import urlencode

import sqlalchemy as sa
from fastapi import Depends, HTTPException, Query, Request, Response
from fastapi.responses import RedirectResponse
from fastapi_offline import FastAPIOffline
from sqlalchemy.orm import Session

from database import engine, get_db, one_select, read_engine
from models import User
from production import answers, tables
from production.door import Door
from production.failures import HANDLERS, is_taken
from production.lifespan import lifespan
from production.pages import json_page
from production.tags import Tags, etag, is_known, precondition_failed, unchanged
from schemas import UserCreate, UserId, UserQuery, UserRead, UserUpdate

# FastAPI, with a /docs that needs no internet.
app = FastAPIOffline(
    title="Users",
    lifespan=lifespan,
    redirect_slashes=False,  # which would repeat whatever Host is claimed
    exception_handlers=HANDLERS,
    **answers.ABOUT,
)
app.add_middleware(Door)


@app.get("/users", **answers.LIST)
@app.get("/users/", include_in_schema=False)
def read_users(
    query: Annotated[UserQuery, Query()], db: Session = Depends(get_db)
) -> Response:
    """List users by their ids, a page at a time. `Link` has the next page."""
    values = query.model_dump()
    statement = users(*values)
    page, last = db.execute(statement, values, bind_arguments=one_select(db)).one()
    headers = {}
    if last:
        address = urlencode(values | {"after": last})
        headers["Link"] = f'<?{address}>; rel="next"'
    return Response(page, headers=headers, media_type="application/json")


@app.post("/users", status_code=201, **answers.CREATE)
@app.post("/users/", include_in_schema=False)
def create_user(
    new: UserCreate, request: Request, db: Session = Depends(get_db)
) -> Response:
    """Add a user. `Location` has its address, and `ETag` its version."""
    values = {COLUMN[name].key: value for name, value in new.model_dump().items()}
    with unique_email(new.email, request, db):
        user = db.execute(NEW_USER, values).one()
    db.commit()
    return user_response(user, 201, Location=address_of(user.id, request))


@app.get("/users/{user_id}", **answers.READ)
def read_user(
    user_id: UserId, if_none_match: Tags = None, db: Session = Depends(get_db)
) -> Response:
    """Get one user, with its version in `ETag`; 304 if `If-None-Match` has that."""
    values = {"user_id": user_id}
    user = db.execute(ONE_USER, values, bind_arguments=one_select(db)).one_or_none()
    if user is None:
        raise HTTPException(404, "No such user")
    if is_known(user.version, if_none_match):
        return Response(status_code=304, headers={"ETag": etag(user.version)})
    return user_response(user)


@app.patch("/users/{user_id}", **answers.UPDATE)
def update_user(
    user_id: UserId,
    change: UserUpdate,
    request: Request,
    if_match: Tags = None,
    db: Session = Depends(get_db),
) -> Response:
    """Change the name, the e-mail or both. `ETag` has the new version.

    With `If-Match`, only if nobody changed the user since you read that `ETag`.
    """
    values = {COLUMN[name]: value for name, value in change.model_dump().items()}
    differs = (column.is_distinct_from(value) for column, value in values.items())
    counted = sa.case((sa.or_(sa.false(), *differs), 1), else_=0)
    values[COLUMN.version] = COLUMN.version + counted
    statement = sa.update(TABLE).where(*this_user(user_id, if_match)).values(values)
    with unique_email(values.get(COLUMN.email), request, db):
        user = db.execute(statement.returning(*USER)).one_or_none()
    if user is None:
        raise missing_or_changed(user_id, if_match, db)
    db.commit()
    return user_response(user)


@app.delete("/users/{user_id}", status_code=204, **answers.DELETE)
def delete_user(
    user_id: UserId, if_match: Tags = None, db: Session = Depends(get_db)
) -> None:
    """Delete a user; with `If-Match`, only in that version."""
    statement = sa.delete(TABLE).where(*this_user(user_id, if_match))
    if db.scalar(statement.returning(COLUMN.id)) is None:
        raise missing_or_changed(user_id, if_match, db)
    db.commit()


@app.get("/health", **answers.HEALTH)
def read_health(db: Session = Depends(get_db)) -> dict[str, str]:
    """Tell whether the database answers, with the tables of this version."""
    if db.bind is engine:
        tables.check(read_engine)
    db.execute(ONE_USER, {"user_id": 1}, bind_arguments=one_select(db))
    return {"status": "ok"}


@app.get("/", include_in_schema=False)
def read_root(request: Request) -> Response:
    """Lead to the documentation: this is the address that uvicorn prints."""
    return RedirectResponse(f"{request.scope['root_path']}/docs")


# Statements, built once and of the table's columns: built of User.id and so on, or at
# each request, they take 1.1 to 1.3 times the CPU.
COLUMN = sa.inspect(User).columns  # by the names that User gives them
TABLE = COLUMN.id.table
FIELDS = {name: COLUMN[name] for name in UserRead.model_fields}
USER = [*(FIELDS[name].label(name) for name in FIELDS), COLUMN.version]
ONE_USER = sa.select(*USER).where(COLUMN.id == sa.bindparam("user_id"))
NEW_USER = sa.insert(TABLE).returning(*USER)


@cache
def users(*parameters: str) -> sa.Select[str, int]:
    """Build the statement for a page. Every other parameter is a filter."""
    filters = [name for name in parameters if name not in ("limit", "after")]
    return json_page(FIELDS, *(COLUMN[name] == sa.bindparam(name) for name in filters))


users(*UserQuery.model_fields)  # what no page can have stops the start


def user_response(user: Any, status: int = 200, **headers: str) -> Response:
    """Return a user with its version. FastAPI would take 0.2 ms to write an object."""
    body = UserRead.model_validate(user).model_dump_json()
    headers["ETag"] = etag(user.version)
    return Response(body, status, headers, "application/json")


def address_of(user_id: int, request: Request) -> str:
    """Return the path of a user, behind any prefix."""
    return f"{request.scope['root_path']}/users/{user_id}"


def this_user(user_id: int, if_match: Tags) -> list[sa.ColumnElement[bool]]:
    """Return the conditions for a change: this user, in a version of If-Match."""
    return [COLUMN.id == user_id, *unchanged(COLUMN.version, if_match)]


def missing_or_changed(user_id: int, if_match: Tags, db: Session) -> HTTPException:
    """Return 404, or 412 if the user is there in another version."""
    db.rollback()  # nothing was changed: the lock is for others
    if db.scalar(sa.select(User.id).where(User.id == user_id)):
        return precondition_failed(if_match)
    return HTTPException(404, "No such user")


@contextmanager
def unique_email(email: str | None, request: Request, db: Session) -> Iterator[None]:
    """Raise 409 if another user has this e-mail, with the address of that user."""
    try:
        yield
    except sa.exc.IntegrityError as error:
        if not is_taken(error, User.email):
            raise
        db.rollback()
        owner = db.scalar(sa.select(User.id).where(User.email == email))
        headers = {"Location": address_of(owner, request)} if owner else None
        raise HTTPException(409, "This e-mail is taken", headers) from None
