"""The tables."""

from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Identity,
    Integer,
    MetaData,
    String,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column

# SQLite counts ids up only in a column of the type INTEGER, which has 64 bits.
Whole = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """What every table has: a version, and constraints with predictable names."""

    type_annotation_map: ClassVar = {int: Whole}  # of 64 bits, on both databases

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        }
    )

    # Counts the changes. A session does not write over a version that it has not
    # read. `onupdate` also counts what `update(User)` changes.
    version: Mapped[int] = mapped_column(
        BigInteger, server_default="1", onupdate=text("version + 1"), sort_order=1
    )

    @declared_attr.directive
    def __mapper_args__(cls) -> dict[str, Any]:  # noqa: N805 - so SQLAlchemy calls it
        """Let SQLAlchemy compare the version at every write."""
        return {"version_id_col": cls.version}


class User(Base):
    """A user. `name` and `email` are enough for plain SQL to add one."""

    __tablename__ = "users"
    __table_args__ = (
        CheckConstraint("email = lower(email)", name="lower_case"),
        # SQLite would otherwise give the id of the last user, once deleted, again.
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    email: Mapped[str] = mapped_column(String(254), unique=True)
