"""The start and the end of a process that serves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from logging import getLogger

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import exc

from database import engine, get_db, read_engine
from production.settings import LOCK_TIMEOUT, settings
from production.sql.databases import primary, standbys
from production.sql.errors import NotReadyError, reason_of
from production.sql.tables import tables

logger = getLogger("uvicorn.error")


def make_tables(app: FastAPI) -> None:
    """Give an empty database its tables. If it is away, get_db does so later."""
    if get_db in app.dependency_overrides:  # a test has a database of its own
        return
    try:
        tables.check_any()
    except (NotReadyError, exc.DBAPIError) as error:
        logger.error("Not ready yet: %s", reason_of(error))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Make the tables before the first request, and close the pools after the last."""
    if not settings.tokens:
        logger.warning(
            "API_TOKEN is not set: whoever reaches this port may change the users"
        )
    if app.router.on_startup or app.router.on_shutdown:
        logger.warning("on_event is not run, since the app has a lifespan: add to that")
    making = asyncio.create_task(run_in_threadpool(make_tables, app))
    # A server that does not answer must not keep the process from being stopped.
    await asyncio.wait([making], timeout=LOCK_TIMEOUT)
    if making.done():
        making.result()  # a step with a mistake stops the start
    yield
    primary.cut()
    standbys.cut()
    await making
    engine.dispose()
    read_engine.dispose()
