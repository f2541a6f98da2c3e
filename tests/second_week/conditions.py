"""A resource of somebody's own with `If-Match` and `If-None-Match`."""

from typing import Any

from fastapi import Depends, HTTPException, Response
from pydantic import BaseModel
from sqlalchemy import String
from sqlalchemy.orm import Mapped, Session, mapped_column

from database import get_db
from main import app
from models import Base
from production.http.openapi import PRECONDITIONS
from production.http.preconditions import Preconditions, etag, preconditions

__all__ = ["app"]


class Note(Base):
    """A note."""

    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(String(100))


class NoteUpdate(BaseModel):
    """A change of a note."""

    text: str


class Problem(BaseModel):
    """What a note is about, with the name of the service's own model."""

    text: str


@app.get("/problems")
def read_problems() -> list[Problem]:
    return []


@app.api_route("/echo", methods=["GET", "POST", "PUT"])
def echo() -> str:
    return "echo"


@app.get("/notes/{note_id}", openapi_extra=PRECONDITIONS)
def read_note(
    note_id: int,
    response: Response,
    conditions: Preconditions = Depends(preconditions),
    db: Session = Depends(get_db),
) -> Any:
    note = db.get(Note, note_id)
    if note is None:
        raise HTTPException(404, "No such note")
    conditions.check(note.version)
    response.headers["ETag"] = etag(note.version)
    return {"text": note.text}


@app.patch("/notes/{note_id}", openapi_extra=PRECONDITIONS)
def update_note(
    note_id: int,
    change: NoteUpdate,
    response: Response,
    conditions: Preconditions = Depends(preconditions),
    db: Session = Depends(get_db),
) -> Any:
    note = db.get_one(Note, note_id)
    conditions.check(note.version)
    note.text = change.text
    db.commit()
    response.headers["ETag"] = etag(note.version)
    return {"text": note.text}
