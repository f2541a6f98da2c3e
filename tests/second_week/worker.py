"""A worker outside of the service, as arq has it: its jobs are coroutines."""

import asyncio

from database import SessionLocal
from models import User


async def add_user(name: str, email: str) -> None:
    with SessionLocal() as db:
        db.add(User(name=name, email=email))
        print("writing", flush=True)
        db.commit()
    print("written", flush=True)


if __name__ == "__main__":
    asyncio.run(add_user("Ada Lovelace", "ada@example.com"))
