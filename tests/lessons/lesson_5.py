"""Requests that end well and badly. Prints the connections in use during each, and after it."""

import asyncio
from contextlib import asynccontextmanager, suppress

from fastapi import Request
from sqlalchemy import QueuePool, text

from database import engine, get_db


def in_use() -> int:
    assert isinstance(engine.pool, QueuePool)
    return engine.pool.checkedout()


async def request(method: str, failure: Exception | None) -> None:
    """Use the session as FastAPI gives it to an endpoint."""
    asked = Request({"type": "http", "method": method})
    with suppress(RuntimeError):
        async with asynccontextmanager(get_db)(asked) as db:
            db.execute(text("SELECT 1"))
            print(in_use())
            if failure:
                raise failure
    print(in_use())


async def requests() -> None:
    for method in ["GET", "POST"] * 10:
        for failure in (None, RuntimeError("the endpoint failed")):
            await request(method, failure)


asyncio.run(requests())
