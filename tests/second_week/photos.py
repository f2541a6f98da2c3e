"""A resource without a word of error handling, which leaves the database to say no."""

from typing import Any

from fastapi import Depends, HTTPException
from pydantic import BaseModel, ConfigDict
from sqlalchemy import CheckConstraint, ForeignKey, String, func, select, text
from sqlalchemy.orm import Mapped, Session, mapped_column

from database import get_db
from main import app
from models import Base

__all__ = ["app"]


class Photo(Base):
    """A photo, whose title nobody else has in any case."""

    __tablename__ = "photos"
    __table_args__ = (CheckConstraint("stars < 6", name="stars"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    code: Mapped[str] = mapped_column(String(100), unique=True)
    title: Mapped[str] = mapped_column(String(100))
    stars: Mapped[int]


class PhotoCreate(BaseModel):
    """Less strict than the table."""

    user_id: int
    code: str
    title: str | None
    stars: int = 0


class PhotoRead(PhotoCreate):
    """A photo as stored."""

    model_config = ConfigDict(from_attributes=True)

    id: int


@app.post("/photos", status_code=201, response_model=PhotoRead)
def create_photo(new: PhotoCreate, db: Session = Depends(get_db)) -> Any:
    photo = Photo(**new.model_dump())
    db.add(photo)
    db.commit()
    db.refresh(photo)
    return photo


@app.post("/photos/text", status_code=201)
def create_by_text(new: PhotoCreate, db: Session = Depends(get_db)) -> None:
    statement = """
        INSERT INTO photos (user_id, code, title, stars)
        VALUES (:user_id, :code, :title, :stars)"""
    db.execute(text(statement), new.model_dump())
    db.commit()


@app.get("/photos/{photo_id}", response_model=PhotoRead)
def read_photo(photo_id: int, db: Session = Depends(get_db)) -> Any:
    photo = db.get(Photo, photo_id)
    if photo is None:
        raise HTTPException(404, "No such photo")
    return photo


@app.get("/photos", response_model=list[PhotoRead])
def read_photos(stars: int | None = None, db: Session = Depends(get_db)) -> Any:
    statement = select(Photo).order_by(Photo.id)
    if stars is not None:
        statement = statement.where(Photo.stars == stars)
    return db.scalars(statement).all()


@app.get("/photos/titles/{title}", response_model=PhotoRead)
async def read_title(title: str, db: Session = Depends(get_db)) -> Any:
    photo = db.scalar(select(Photo).where(func.lower(Photo.title) == title.lower()))
    if photo is None:
        raise HTTPException(404, "No such photo")
    return photo
