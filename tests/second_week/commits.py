"""Writes whose commit comes too late, or not at all, and sessions that have nothing to commit."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any

from fastapi import Depends, HTTPException
from fastapi.responses import StreamingResponse
from sqlalchemy import exc, insert, select, text, update
from sqlalchemy.orm import Session

from database import get_db
from main import app
from models import User
from second_day.visits import Visit

__all__ = ["app"]


# As FastAPI's page "Dependencies with yield" has it.


def end_after(db: Session = Depends(get_db)) -> Iterator[Session]:
    yield db
    db.commit()


def begin_before(db: Session = Depends(get_db)) -> Iterator[Session]:
    with db.begin():
        yield db


# Ways to write, none of which commits.


def add(db: Session) -> None:
    db.add(Visit(page="lost"))


def flush(db: Session) -> None:
    db.add(Visit(page="lost"))
    db.flush()


def write_text(db: Session) -> None:
    db.execute(text("INSERT INTO visits (page) VALUES ('lost')"))


def write_many(db: Session) -> None:
    db.execute(insert(Visit), [{"page": "lost"}, {"page": "lost"}])


def change(db: Session) -> None:
    db.execute(update(User).values(name="Lost"))


def change_object(db: Session) -> None:
    db.scalars(select(User)).one().name = "Lost"


def remove(db: Session) -> None:
    db.delete(db.scalars(select(User)).one())


def release_a_savepoint(db: Session) -> None:
    with db.begin_nested():
        db.add(Visit(page="lost"))


WRITES: dict[str, Callable[[Session], Any]] = {
    "add": add,
    "flush": flush,
    "text": write_text,
    "many": write_many,
    "change": change,
    "object": change_object,
    "remove": remove,
    "savepoint": release_a_savepoint,
}


@app.post("/after/{how}")
def write_after(how: str, db: Annotated[Session, Depends(end_after)]) -> None:
    WRITES[how](db)


@app.post("/after/{how}/function")
def write_after_in_time(
    how: str, db: Annotated[Session, Depends(end_after, scope="function")]
) -> None:
    WRITES[how](db)


@app.post("/before/{how}")
def write_within(how: str, db: Annotated[Session, Depends(begin_before)]) -> None:
    WRITES[how](db)


@app.post("/before/{how}/function")
def write_within_in_time(
    how: str, db: Annotated[Session, Depends(begin_before, scope="function")]
) -> None:
    WRITES[how](db)


@app.api_route("/forgotten/{how}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
def forget(how: str, status: int = 0, db: Session = Depends(get_db)) -> None:
    WRITES[how](db)
    if status:
        raise HTTPException(status)


@app.post("/forgotten/{how}/async")
async def forget_async(how: str, db: Session = Depends(get_db)) -> None:
    WRITES[how](db)


@app.post("/forgotten/{how}/half")
def forget_the_second_half(how: str, db: Session = Depends(get_db)) -> None:
    db.add(Visit(page="kept"))
    db.commit()
    WRITES[how](db)


@app.api_route("/stream/{how}", methods=["GET", "POST"])
def stream(how: str, db: Session = Depends(get_db)) -> StreamingResponse:
    def lines() -> Iterator[str]:
        yield "begun\n"
        WRITES[how](db)
        yield "ended\n"

    return StreamingResponse(lines(), media_type="text/plain")


# What has nothing to commit.


def read(db: Session) -> None:
    db.query(User).count()


def keep(db: Session) -> None:
    db.add(Visit(page="kept"))
    db.commit()


def try_in_a_savepoint(db: Session) -> None:
    trial = db.begin_nested()
    db.add(Visit(page="tried"))
    db.flush()
    trial.rollback()


def try_and_roll_back(db: Session) -> None:
    db.add(Visit(page="tried"))
    db.flush()
    db.rollback()


def find_a_conflict(db: Session) -> None:
    user = db.scalars(select(User)).one()
    try:
        with db.begin_nested():
            db.add(User(name="Again", email=user.email))
    except exc.IntegrityError:
        pass


def change_nobody(db: Session) -> None:
    db.execute(update(User).where(User.name == "Nobody").values(name="X"))


def lock_the_rows(db: Session) -> None:
    db.scalars(select(User).with_for_update()).all()


def take_an_advisory_lock(db: Session) -> None:
    if db.get_bind().dialect.name == "postgresql":
        db.execute(text("SELECT pg_advisory_xact_lock(1)"))


def set_local(db: Session) -> None:
    if db.get_bind().dialect.name == "postgresql":
        db.execute(text("SET LOCAL statement_timeout = '3s'"))


NOTHING_LOST = {
    "read": read,
    "keep": keep,
    "savepoint": try_in_a_savepoint,
    "rollback": try_and_roll_back,
    "conflict": find_a_conflict,
    "nobody": change_nobody,
    "rows": lock_the_rows,
    "advisory": take_an_advisory_lock,
    "local": set_local,
}


@app.api_route("/fine/{how}", methods=["POST", "PUT", "PATCH", "DELETE"])
def lose_nothing(how: str, db: Session = Depends(get_db)) -> str:
    NOTHING_LOST[how](db)
    return how
