"""The way of FastAPI's tutorial on SQL databases: SQLModel, several models, response_model."""

import os
from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Query
from sqlmodel import Field, Session, SQLModel, create_engine, select

engine = create_engine(os.environ["PEER_URL"])


class UserBase(SQLModel):
    name: str
    email: str = Field(unique=True)


class User(UserBase, table=True):
    __tablename__ = "users"
    id: int | None = Field(default=None, primary_key=True)


class UserPublic(UserBase):
    id: int


class UserCreate(UserBase):
    pass


def get_session() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


SessionDep = Annotated[Session, Depends(get_session)]
app = FastAPI()


@app.get("/users", response_model=list[UserPublic])
def read_users(session: SessionDep, offset: int = 0, limit: Annotated[int, Query(le=100)] = 100):
    return session.exec(select(User).offset(offset).limit(limit)).all()


@app.get("/users/{user_id}", response_model=UserPublic)
def read_user(user_id: int, session: SessionDep):
    user = session.get(User, user_id)
    if not user:
        raise HTTPException(404, "User not found")
    return user


@app.post("/users", response_model=UserPublic, status_code=201)
def create_user(new: UserCreate, session: SessionDep):
    user = User.model_validate(new)
    session.add(user)
    session.commit()
    session.refresh(user)
    return user
