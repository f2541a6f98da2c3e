"""The way of Litestar's SQLAlchemy tutorial: its plugin, an async session, models in and out."""

import os
from typing import Annotated

from advanced_alchemy.extensions.litestar import (
    AsyncSessionConfig,
    SQLAlchemyAsyncConfig,
    SQLAlchemyDTO,
    SQLAlchemyDTOConfig,
    SQLAlchemyPlugin,
)
from litestar import Litestar, get, post
from litestar.exceptions import NotFoundException
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    email: Mapped[str] = mapped_column(unique=True)


NewUser = SQLAlchemyDTO[Annotated[User, SQLAlchemyDTOConfig(exclude={"id"})]]


@get("/users")
async def read_users(db_session: AsyncSession) -> list[User]:
    return list(await db_session.scalars(select(User).order_by(User.id).limit(100)))


@get("/users/{user_id:int}")
async def read_user(user_id: int, db_session: AsyncSession) -> User:
    user = await db_session.get(User, user_id)
    if user is None:
        raise NotFoundException("no such user")
    return user


@post("/users", dto=NewUser, return_dto=SQLAlchemyDTO[User])
async def create_user(data: User, db_session: AsyncSession) -> User:
    db_session.add(data)
    await db_session.commit()
    return data


config = SQLAlchemyAsyncConfig(
    connection_string=os.environ["PEER_URL"].replace("sqlite:", "sqlite+aiosqlite:"),
    session_config=AsyncSessionConfig(expire_on_commit=False),
)
app = Litestar([read_users, read_user, create_user], plugins=[SQLAlchemyPlugin(config=config)])
