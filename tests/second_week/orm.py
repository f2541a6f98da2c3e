"""What SQLAlchemy's own pages on the ORM teach, added to the users."""

from contextvars import ContextVar
from typing import Any

from sqlalchemy import Boolean, Column, Connection, ForeignKey, Integer, String, Table, event
from sqlalchemy.orm import (
    Mapped,
    Mapper,
    ORMExecuteState,
    Session,
    UOWTransaction,
    mapped_column,
    relationship,
    with_loader_criteria,
)
from starlette.types import ASGIApp, Receive, Scope, Send

from database import SessionLocal
from main import app
from models import Base, User

__all__ = ["app"]


# The ORM Quick Start: a relationship with a cascade, over a plain foreign key.


class Address(Base):
    """An address of a user."""

    __tablename__ = "addresses"

    id: Mapped[int] = mapped_column(primary_key=True)
    street: Mapped[str] = mapped_column(String(100))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    user: Mapped[User] = relationship(back_populates="addresses")


User.addresses = relationship(Address, back_populates="user", cascade="all, delete-orphan")


# Over ON DELETE CASCADE, with and without `passive_deletes`.


class Badge(Base):
    """A badge of a user, which the database deletes with its user."""

    __tablename__ = "badges"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))


class Album(Base):
    """An album of a user, of which the ORM does not know that the database would delete it."""

    __tablename__ = "albums"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))


User.badges = relationship(Badge, passive_deletes=True)
User.albums = relationship(Album)


# Events: a trail of all that happens to users.

trail = Table(
    "trail",
    Base.metadata,
    Column("id", Integer, primary_key=True),
    Column("what", String(100)),
    Column("name", String(100)),
)


class Change(Base):
    """What a flush is about to do."""

    __tablename__ = "changes"

    id: Mapped[int] = mapped_column(primary_key=True)
    what: Mapped[str] = mapped_column(String(100))
    name: Mapped[str] = mapped_column(String(100))


def note(what: str, connection: Connection, user: User) -> None:
    connection.execute(trail.insert().values(what=what, name=user.name))


@event.listens_for(User, "after_insert")
def after_insert(_: Mapper[User], connection: Connection, user: User) -> None:
    note("insert", connection, user)


@event.listens_for(User, "after_update")
def after_update(_: Mapper[User], connection: Connection, user: User) -> None:
    note("update", connection, user)


@event.listens_for(User, "after_delete")
def after_delete(_: Mapper[User], connection: Connection, user: User) -> None:
    note("delete", connection, user)


@event.listens_for(SessionLocal, "before_flush")
def before_flush(db: Session, _: UOWTransaction, __: Any) -> None:
    for what, changed in (("new", db.new), ("dirty", db.dirty), ("deleted", db.deleted)):
        for user in changed:
            if isinstance(user, User) and (what != "dirty" or db.is_modified(user)):
                db.add(Change(what=what, name=user.name))


@event.listens_for(User.name, "set", retval=True)
def drop_blanks(_: User, name: str, __: Any, ___: Any) -> str:
    return " ".join(name.split())


# Criteria: who is hidden, or belongs to another tenant, is nowhere to be seen.

User.hidden = mapped_column(Boolean, server_default="false")
User.tenant = mapped_column(String(50), server_default="")
tenant: ContextVar[str] = ContextVar("tenant", default="")


class ReadTenant:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        tenant.set(headers.get(b"x-tenant", b"").decode())
        await self.app(scope, receive, send)


app.add_middleware(ReadTenant)


@event.listens_for(User, "before_insert")
def set_tenant(_: Mapper[User], __: Connection, user: Any) -> None:
    user.tenant = tenant.get()


@event.listens_for(SessionLocal, "do_orm_execute")
def show_what_is_theirs(state: ORMExecuteState) -> None:
    if state.is_select and not (state.is_column_load or state.is_relationship_load):
        now = tenant.get()
        state.statement = state.statement.options(
            with_loader_criteria(User, lambda user: ~user.hidden, include_aliases=True),
            with_loader_criteria(User, lambda user: user.tenant == now, include_aliases=True),
        )
