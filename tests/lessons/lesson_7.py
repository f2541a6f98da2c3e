"""Two requests at the same time. Prints whether they got the same session."""

import asyncio
from contextlib import asynccontextmanager

from fastapi import Request

from database import get_db


async def requests() -> None:
    asked = [Request({"type": "http", "method": "GET"}) for _ in range(2)]
    session = asynccontextmanager(get_db)
    async with session(asked[0]) as one, session(asked[1]) as other:
        print(one is other)


asyncio.run(requests())
