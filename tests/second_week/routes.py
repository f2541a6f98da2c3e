"""Routes that take more than 64 KiB, routers with functions of one name, and a large file."""

from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel
from sqlalchemy.orm import Session

from database import get_db
from main import app
from models import User

__all__ = ["app"]

MIB = 1024 * 1024


class Text(BaseModel):
    """A text of any length."""

    text: str


# What one route, one router and one inclusion take.


@app.post("/upload", max_body_size=MIB)
async def upload(request: Request) -> int:
    return len(await request.body())


@app.post("/upload/small", max_body_size=1024)
async def upload_little(request: Request) -> int:
    return len(await request.body())


@app.post("/upload/usual")
async def upload_as_usual(request: Request) -> int:
    return len(await request.body())


books = APIRouter(prefix="/books", max_body_size=MIB)
letters = APIRouter(prefix="/letters")


@books.post("")
def add_text(new: Text, db: Session = Depends(get_db)) -> int:
    db.query(User).count()
    return len(new.text)


@letters.post("")
def add_letter(new: Text) -> int:
    return len(new.text)


app.include_router(books)
app.include_router(letters, max_body_size=MIB)


# Functions of one name, as two files would have them.


def router_of(prefix: str) -> APIRouter:
    router = APIRouter(prefix=prefix)

    @router.get("/")
    def read_items(db: Session = Depends(get_db)) -> list[str]:
        return []

    @router.post("/")
    def read_users(db: Session = Depends(get_db)) -> None:
        """Another function with the name of one that is there already."""

    @router.get("/{item_id}")
    def health(item_id: int) -> int:
        return item_id

    return router


app.include_router(router_of("/cats"))
app.include_router(router_of("/dogs"))


# A large file, sent by FastAPI and by a generator.


@app.get("/film")
def read_film(path: Path) -> FileResponse:
    return FileResponse(path)


@app.get("/film/theirs")
def read_their_film(path: Path, db: Session = Depends(get_db)) -> FileResponse:
    db.query(User).count()
    return FileResponse(path)


@app.get("/film/pieces")
async def read_pieces(path: Path) -> StreamingResponse:
    async def pieces() -> AsyncIterator[bytes]:
        with path.open("rb") as file:
            while piece := file.read(64 * 1024):
                yield piece

    return StreamingResponse(pieces(), headers={"Content-Length": str(path.stat().st_size)})
