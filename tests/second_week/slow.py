"""Endpoints that ask another server, for which a sleep stands here, and then the database."""

import asyncio
import time
from typing import Annotated

from fastapi import Depends, Header, HTTPException
from sqlalchemy.orm import Session

from database import get_db
from main import app
from models import User
from second_day.visits import Visit

__all__ = ["app"]


def current_user(x_user: Annotated[str, Header()], db: Session = Depends(get_db)) -> User:
    user = db.query(User).filter(User.email == x_user).first()
    if user is None:
        raise HTTPException(401, "Who are you?")
    return user


CurrentUser = Annotated[User, Depends(current_user)]


@app.get("/rates")
def read_rates(wait: float, db: Session = Depends(get_db)) -> int:
    time.sleep(wait)
    return db.query(User).count()


@app.get("/rates/async")
async def read_rates_async(wait: float, db: Session = Depends(get_db)) -> int:
    await asyncio.sleep(wait)
    return db.query(User).count()


@app.get("/mine")
def read_mine(wait: float, user: CurrentUser, db: Session = Depends(get_db)) -> str:
    time.sleep(wait)
    return user.name


@app.get("/mine/async")
async def read_mine_async(wait: float, user: CurrentUser, db: Session = Depends(get_db)) -> str:
    await asyncio.sleep(wait)
    return user.name


@app.post("/pay")
def pay(wait: float, db: Session = Depends(get_db)) -> None:
    time.sleep(wait)
    db.add(Visit(page="paid"))
    db.commit()


@app.post("/pay/async")
async def pay_async(wait: float, user: CurrentUser, db: Session = Depends(get_db)) -> None:
    await asyncio.sleep(wait)
    db.add(Visit(page=f"paid by {user.name}"))
    db.commit()
