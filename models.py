"""The tables."""

from sqlalchemy import BigInteger, CheckConstraint, Identity, Integer, MetaData, String, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Every constraint gets a predictable name, so that a schema change can refer to it."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        }
    )


class User(Base):
    """A user. `name` and `email` are enough for plain SQL to add one."""

    __tablename__ = "users"
    __table_args__ = (
        CheckConstraint("email = lower(email)", name="lower_case"),
        # SQLite would otherwise give the id of the last user, once deleted, to the next one.
        {"sqlite_autoincrement": True},
    )

    # SQLite counts ids up only in a column of the type INTEGER, which holds 64 bits there.
    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), Identity(always=True), primary_key=True
    )
    name: Mapped[str] = mapped_column(String(100))
    email: Mapped[str] = mapped_column(String(254), unique=True)
    # Counts the changes: SQLAlchemy refuses to write over a version that it has not read. What
    # `update(User)` changes is counted by `onupdate`.
    version: Mapped[int] = mapped_column(
        BigInteger, server_default="1", onupdate=text("version + 1")
    )
    __mapper_args__ = {"version_id_col": version}
