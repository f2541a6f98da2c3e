"""A table more."""

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from models import Base


class Visit(Base):
    """A visit."""

    __tablename__ = "visits"

    id: Mapped[int] = mapped_column(primary_key=True)
    page: Mapped[str] = mapped_column(String(300))
