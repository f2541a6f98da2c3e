"""What the service needs to know about PostgreSQL."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from socket import AF_INET, SHUT_RDWR, SOCK_STREAM, fromfd, getaddrinfo
from threading import Lock, Thread
from typing import Any
from weakref import WeakSet

import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, Engine, ExceptionContext, event, exc, text

from production import LOCK_TIMEOUT

# Unless the URL, the role or the database says otherwise. Poolers would refuse them as
# options of the start.
TIMEOUTS = f"""
    SELECT set_config(name, seconds || 's', false)
    FROM (VALUES ('lock_timeout', {LOCK_TIMEOUT}),
        ('statement_timeout', {LOCK_TIMEOUT + 1})) AS timeouts (name, seconds)
    WHERE current_setting(name) = '0'"""  # noqa: S608
CONNECT_TIMEOUT = 2  # seconds, for each host
MISSING_RIGHTS = """
    SELECT name FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS name
    WHERE NOT has_table_privilege(to_regclass('users'), name)
        AND NOT (pg_is_in_recovery() AND name <> 'SELECT')"""


class PostgreSQL:
    """A database on one host, or on several of which one is the primary."""

    on_a_server = True
    readers, writers = 8, 4

    def __init__(self, rest: str) -> None:
        """Take what follows postgresql:// in any URL of libpq.

        Raises ValueError if it cannot be read.
        """
        defaults = {
            "connect_timeout": CONNECT_TIMEOUT,
            "tcp_user_timeout": 5000,  # milliseconds until a silent host is given up
        }
        # Behind a pooler, connections would share prepared statements.
        arguments = {**defaults, **read_url(rest), "prepare_threshold": None}
        self.connections: WeakSet[psycopg.Connection[Any]] = WeakSet()
        self.lock = Lock()  # for whoever goes through the connections
        self.looks: dict[str, tuple[Thread, float]] = {}
        self.options: dict[str, Any] = {
            "url": "postgresql+psycopg://",
            "connect_args": arguments,
        }

    def prepare(self, engine: Engine, read_engine: Engine) -> None:
        """Set up and check the connections. The driver begins transactions."""
        self.ping: Callable[[Any], bool] = engine.dialect.do_ping
        for each in (engine, read_engine):
            event.listen(each, "do_connect", self.look_up)
            # Before SQLAlchemy asks its own first questions: these, too, may be cut.
            event.listen(each, "connect", self.set_up, insert=True)
            event.listen(each, "checkout", self.check)
            event.listen(each, "handle_error", hide_values)

    def look_up(self, _: Any, __: Any, ___: Any, arguments: dict[str, Any]) -> None:
        """See that the hosts have an address. All else in libpq has a time limit.

        A look-up cannot be given up: so there is one for a name, however many wait.
        """
        for host in (arguments.get("host") or "").split(","):
            if not host or host.startswith("/"):  # a socket of this machine
                continue
            look, end = self.looks.get(host, (None, 0.0))
            if not (look and look.is_alive()):
                look = Thread(target=resolve, args=[host], daemon=True)
                end = time.monotonic() + CONNECT_TIMEOUT
                look.start()
                self.looks[host] = look, end
            look.join(max(0, end - time.monotonic()))
            if look.is_alive():
                raise psycopg.OperationalError(f"nobody says which address {host} has")

    def set_up(self, connection: psycopg.Connection[Any], _: Any) -> None:
        """Limit how long a statement waits for a lock, and how long it takes in all."""
        with self.lock:
            self.connections.add(connection)
        transactions = not connection.autocommit
        connection.autocommit = True
        connection.execute(TIMEOUTS.encode())
        connection.autocommit = not transactions

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

    def describe(self, connection: Connection) -> str:
        """Name the database, for whoever is about to alter it."""
        driver: Any = connection.connection.dbapi_connection
        return f"{driver.info.dbname} on {driver.info.host}:{driver.info.port}"

    def missing_rights(self, connection: Connection) -> str:
        """Name the rights on the table of users that the role has not."""
        return ", ".join(connection.scalars(text(MISSING_RIGHTS)))

    def cut(self) -> None:
        """End what still waits for the server, which may be frozen."""
        with self.lock:
            connections = list(self.connections)
        for connection in connections:
            with suppress(OSError, psycopg.Error):  # it is closed already
                socket = fromfd(connection.fileno(), AF_INET, SOCK_STREAM)
                with socket:
                    socket.shutdown(SHUT_RDWR)

    @contextmanager
    def upgrading(self, connection: Connection, patient: bool) -> Iterator[None]:
        """Change the tables in one transaction, after another one, however long.

        Unless patient, give up after LOCK_TIMEOUT seconds. A step may take long, but
        waits no longer for a table than a request, since requests wait behind it.
        """
        for statement in (
            "RESET statement_timeout",  # for a step that has no transaction
            "SET LOCAL statement_timeout = 0",
            f"SET LOCAL lock_timeout = '{0 if patient else LOCK_TIMEOUT}s'",
            "SELECT pg_advisory_xact_lock(7236589)",
            f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}s'",
        ):
            connection.exec_driver_sql(statement)
        yield


def read_url(rest: str) -> dict[str, Any]:
    """Return libpq's parameters. No refusal quotes what may be a part of the password.

    libpq would take what follows a raw @ or / in it for the host, and print that.
    """
    user, at, place = rest.partition("@")
    if not at or not ("/" in user or "@" in place.partition("?")[0]):
        try:
            return conninfo_to_dict(f"postgresql://{rest}")
        except psycopg.Error as error:
            if "query parameter" in str(error):
                raise ValueError("has a parameter that libpq does not know") from None
    sentence = "write %40 for @, %2F for / and %25 for % in its password"
    raise ValueError(f"cannot be read: {sentence}")


def resolve(host: str) -> None:
    """Look a name up. What is wrong with it, libpq says better."""
    with suppress(OSError):
        getaddrinfo(host, None)


def hide_values(context: ExceptionContext) -> None:
    """Keep the message without its DETAIL, which quotes what people sent."""
    error, outer = context.original_exception, context.sqlalchemy_exception
    if isinstance(error, psycopg.Error) and (message := error.diag.message_primary):
        error.args = (message,)
        if outer:
            outer.args = (message,)
