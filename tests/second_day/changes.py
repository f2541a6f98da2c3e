"""Endpoints that change users behind the service's back, and endpoints with a mistake in them."""

import time
from typing import Any

from fastapi import Depends
from sqlalchemy import String, text, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from database import get_db
from main import app
from models import Base, User


class Photo(Base):
    """A model with no step that makes its table."""

    __tablename__ = "photos"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(100))


# `seconds` of thinking, between reading and writing.
@app.post("/rename/{user_id}")
def rename(user_id: int, name: str, seconds: float = 0, db: Session = Depends(get_db)) -> None:
    user = db.get_one(User, user_id)
    time.sleep(seconds)
    user.name = name
    db.commit()


@app.post("/update/{user_id}")
def update_name(user_id: int, name: str, db: Session = Depends(get_db)) -> None:
    db.execute(update(User).where(User.id == user_id).values(name=name))
    db.commit()


@app.api_route("/mistakes/column", methods=["GET", "POST"])
def misspell_a_column(db: Session = Depends(get_db)) -> None:
    db.execute(text("SELECT nmae FROM users"))


@app.api_route("/mistakes/join", methods=["GET", "POST"])
def forget_a_table(db: Session = Depends(get_db)) -> None:
    db.execute(text("SELECT users.name FROM alembic_version"))


@app.api_route("/mistakes/syntax", methods=["GET", "POST"])
def misspell_sql(db: Session = Depends(get_db)) -> None:
    db.execute(text("SELEKT name FROM users"))


@app.api_route("/mistakes/table", methods=["GET", "POST"])
def ask_for_a_table_that_is_missing(db: Session = Depends(get_db)) -> None:
    db.query(Photo).all()


@app.api_route("/mistakes/null", methods=["GET", "POST"])
def forget_the_name(db: Session = Depends(get_db)) -> None:
    email = "secret" + "@example.com"  # in two pieces: the traceback shows this line
    db.add(User(name=None, email=email))
    db.commit()


@app.api_route("/mistakes/python", methods=["GET", "POST"])
def divide_by_zero(db: Session = Depends(get_db)) -> Any:
    return 1 / 0


@app.post("/half-way")
def fail_half_way(db: Session = Depends(get_db)) -> None:
    db.add(User(name="Ghost", email="ghost@example.com"))
    db.flush()
    raise RuntimeError("half-way")
