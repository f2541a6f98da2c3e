"""A router in a file of its own."""

from fastapi import APIRouter, Depends
from sqlalchemy.orm import Session

from database import get_db
from models import User

router = APIRouter()


@router.get("/photos")
def read_photos(db: Session = Depends(get_db)) -> list[str]:
    """List something."""
    return [user.name for user in db.query(User).all()]
