"""What the service needs to know about PostgreSQL."""

import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Engine, event, exc

from production import LOCK_TIMEOUT

# Unless the URL, the role or the database says otherwise. Poolers would refuse them as
# options of the start.
TIMEOUTS = f"""
    SELECT set_config(name, seconds || 's', false)
    FROM (VALUES ('lock_timeout', {LOCK_TIMEOUT}),
        ('statement_timeout', {LOCK_TIMEOUT + 1})) AS timeouts (name, seconds)
    WHERE current_setting(name) = '0'"""  # noqa: S608


class PostgreSQL:
    """A database on one host, or on several of which one is the primary."""

    on_a_server = True
    readers, writers = 8, 4
    begin_upgrade = (  # how a change of the tables begins
        "BEGIN",
        "SET LOCAL statement_timeout = 0",
        "SELECT pg_advisory_xact_lock(7236589)",
    )

    def __init__(self, url: str) -> None:
        """Take any URL of libpq. Raises ValueError if it cannot be read."""
        try:
            read = conninfo_to_dict(url)
        except psycopg.Error:  # whose message quotes what may be the password
            sentence = "DATABASE_URL cannot be read: percent-encode its password"
            raise ValueError(sentence) from None
        defaults = {
            "connect_timeout": 2,  # seconds, for each host
            "tcp_user_timeout": 5000,  # milliseconds until a silent host is given up
        }
        # Behind a pooler, connections would share prepared statements.
        arguments = {**defaults, **read, "prepare_threshold": None}
        self.options: dict[str, Any] = {
            "url": "postgresql+psycopg://",
            "connect_args": arguments,
        }

    def prepare(self, engine: Engine, read_engine: Engine) -> None:
        """Set up and check the connections. The driver begins transactions."""
        self.ping: Callable[[Any], bool] = engine.dialect.do_ping
        for each in (engine, read_engine):
            event.listen(each, "connect", set_timeouts)
            event.listen(each, "checkout", self.check)

    def check(self, connection: Any, record: Any, _: Any) -> None:
        """Ask for a sign of life, unless the connection was taken a moment ago.

        The round trip takes 0.2 of what a read costs; HikariCP leaves it out, too.
        """
        now = time.monotonic()
        if now - record.info.get("taken", now) > 0.5:
            try:
                self.ping(connection)
            except psycopg.Error as error:
                raise exc.InvalidatePoolError(str(error)) from error
        record.info["taken"] = now


def set_timeouts(connection: psycopg.Connection[Any], _: Any) -> None:
    """Limit how long a statement waits for a lock, and how long it takes in all."""
    connection.execute(TIMEOUTS.encode())
    connection.commit()
