"""What the service needs to know about PostgreSQL."""

import time
from collections.abc import Callable
from contextlib import suppress
from socket import AF_INET, SHUT_RDWR, SOCK_STREAM, fromfd
from threading import Lock
from typing import Any, Self
from weakref import WeakSet

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from sqlalchemy import Engine, ExceptionContext, event, exc

from production.settings import LOCK_TIMEOUT

# Unless the URL, the role or the database says otherwise. Poolers would refuse them as
# options of the start.
TIMEOUTS = f"""
    SELECT set_config(name, seconds || 's', false)
    FROM (VALUES ('lock_timeout', {LOCK_TIMEOUT}),
        ('statement_timeout', {LOCK_TIMEOUT + 1})) AS timeouts (name, seconds)
    WHERE current_setting(name) = '0'"""  # noqa: S608
CONNECT_TIMEOUT = 2  # seconds, for each host
# Of SQLSTATE: what a standby says to a write, and whoever has another search_path.
READ_ONLY, UNDEFINED_TABLE = "25006", "42P01"
CHANGES = ("INSERT", "UPDATE", "DELETE", "MERGE")


class Cursor(psycopg.Cursor[Any]):
    """A cursor that notes what its statements have written."""

    connection: "Connection"

    def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
        """Run a statement."""
        super().execute(query, params, **options)
        self.connection.note(query, self.statusmessage or "")
        return self

    def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
        """Run a statement for each set of parameters."""
        super().executemany(query, params_seq, **options)
        self.connection.note(query, self.statusmessage or "")


class Connection(psycopg.Connection[Any]):
    """The driver's connection, which knows what its transaction has written."""

    written = 0  # rows

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.savepoints: dict[str, int] = {}

    def note(self, query: Any, status: str) -> None:
        """Count the rows of a change: `status` is `INSERT 0 1` or `SAVEPOINT`.

        What is written before a savepoint is written still, once it is rolled back.
        """
        verb, _, count = status.rpartition(" ")
        if verb.startswith(CHANGES):
            self.written += int(count)
        elif status == "SAVEPOINT":
            self.savepoints[str(query).split()[-1]] = self.written
        elif status == "ROLLBACK":
            self.written = self.savepoints.get(str(query).split()[-1], 0)

    def commit(self) -> None:
        """End the transaction."""
        super().commit()
        self.written = 0

    def rollback(self) -> None:
        """Undo the transaction."""
        super().rollback()
        self.written = 0

    @property
    def at_work(self) -> bool:
        """Tell whether a statement is being run."""
        return self.info.transaction_status == TransactionStatus.ACTIVE


class PostgreSQL:
    """A database on one host, or on several of which one is the primary."""

    on_a_server = True

    def __init__(self, rest: str, connections: int) -> None:
        """Take what follows postgresql:// in any URL of libpq, and how many to open.

        A read may use either engine: so readers count twice. Raises ValueError if the
        URL cannot be read.
        """
        for_requests = min(connections, 20)
        self.writers = max(1, for_requests // 5)
        self.readers = (for_requests - self.writers) // 2
        self.overflow = connections - 2 * self.readers - self.writers
        defaults = {
            "connect_timeout": CONNECT_TIMEOUT,
            "tcp_user_timeout": 5000,  # milliseconds until a silent host is given up
        }
        # Behind a pooler, connections would share prepared statements.
        self.arguments = {**defaults, **read_url(rest), "prepare_threshold": None}
        self.connections: WeakSet[psycopg.Connection[Any]] = WeakSet()
        self.lock = Lock()  # for whoever goes through the connections
        self.last_bad = 0.0  # when the youngest connection with an outage was opened
        self.url = "postgresql+psycopg://"
        self.options: dict[str, Any] = {"creator": self.connect}

    def prepare(self, engine: Engine, *, writes: bool) -> None:
        """Set up and check the connections. The driver begins transactions."""
        self.ping: Callable[[Any], bool] = engine.dialect.do_ping
        # Before SQLAlchemy asks its own first questions: these, too, may be cut.
        event.listen(engine, "connect", self.set_up, insert=True)
        event.listen(engine, "checkout", self.check)
        event.listen(engine, "handle_error", hide_values)
        event.listen(engine, "handle_error", self.note_outage)

    def connect(self) -> Connection:
        """Connect to the first host that the URL allows."""
        return Connection.connect(**self.arguments, cursor_factory=Cursor)

    def set_up(self, connection: Any, record: Any) -> None:
        """Limit how long a statement waits for a lock, and how long it takes in all."""
        with self.lock:
            self.connections.add(connection)
        encoding = connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            sentence = f"the database is in {encoding}: make it with ENCODING 'UTF8'"
            raise psycopg.OperationalError(sentence)
        record.info["opened"] = time.monotonic()
        record.info["standby"] = is_standby(connection)
        transactions = not connection.autocommit
        connection.autocommit = True
        connection.execute(TIMEOUTS.encode())
        connection.autocommit = not transactions

    def check(self, connection: Any, record: Any, _: Any) -> None:
        """Ask for a sign of life, unless the connection was taken a moment ago.

        The round trip takes 0.2 of what a read costs; HikariCP leaves it out, too. What
        was opened before the end of an outage may still be as the outage was.
        """
        now = time.monotonic()
        taken = record.info.get("taken")
        record.info["taken"] = now
        if taken is None:  # it was opened just now
            return
        if now - taken > 0.5:
            try:
                self.ping(connection)
            except psycopg.Error as error:
                raise exc.InvalidatePoolError(str(error)) from error
        promoted = record.info["standby"] and not is_standby(connection)
        if promoted or record.info["opened"] <= self.last_bad:
            raise exc.InvalidatePoolError("opened before or in an outage")

    def note_outage(self, context: ExceptionContext) -> None:
        """See whether a connection is of an outage, and so are all that are older."""
        state = getattr(context.original_exception, "sqlstate", None)
        if context.connection and state in (READ_ONLY, UNDEFINED_TABLE):
            opened = context.connection.info["opened"]
            self.last_bad = max(self.last_bad, opened)

    def cut(self) -> None:
        """End what still waits for the server, which may be frozen."""
        with self.lock:
            connections = list(self.connections)
        for connection in connections:
            with suppress(OSError, psycopg.Error):  # it is closed already
                socket = fromfd(connection.fileno(), AF_INET, SOCK_STREAM)
                with socket:
                    socket.shutdown(SHUT_RDWR)


def is_standby(connection: psycopg.Connection[Any]) -> bool:
    """Tell whether the server takes no writes: it says so by itself (PostgreSQL 14)."""
    return connection.info.parameter_status("in_hot_standby") == "on"


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


def hide_values(context: ExceptionContext) -> None:
    """Keep the message without its DETAIL, which quotes what people sent."""
    error, outer = context.original_exception, context.sqlalchemy_exception
    if isinstance(error, psycopg.Error) and (message := error.diag.message_primary):
        error.args = (message,)
        if outer:
            outer.args = (message,)
