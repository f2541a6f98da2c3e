"""Which database DATABASE_URL means, and DATABASE_READ_URL."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from production.settings import ROOT, settings
from production.sql.sqlite import SQLite

if TYPE_CHECKING:
    from production.sql.postgresql import PostgreSQL


def choose(url: str) -> "SQLite | PostgreSQL":
    """Return what the service needs to know about the database of this URL.

    Without a URL, that is the file `users.db` beside the code. Raises ValueError, with
    what to change, if the URL cannot be used.
    """
    url = url.strip()
    if not url:
        return SQLite(ROOT / "users.db")
    if url[0] in "\"'":
        raise ValueError("must not be in quotes")
    parts = re.fullmatch(r"(\w+)(\+\w+)?://(.*)", url, re.DOTALL)
    name, driver, rest = parts.groups() if parts else ("", None, "")
    if name not in ("sqlite", "postgres", "postgresql"):
        raise ValueError("must start with sqlite:/// or postgresql://")
    if driver not in (None, "+pysqlite", "+psycopg"):
        raise ValueError(f"must start with {name}://, without {driver}")
    if name == "sqlite":
        return SQLite(path_of(rest))
    # Not at the top: the driver takes 6 MB.
    from production.sql.postgresql import PostgreSQL  # noqa: PLC0415

    return PostgreSQL(rest, settings.database_connections)


def path_of(rest: str) -> Path:
    """Return the path in what follows sqlite://, whatever it is called.

    Raises ValueError for options, or if no file can be there.
    """
    path = rest.removeprefix("/")
    options = re.search(r"\?\w+=[^/]*$", path)
    if not path or options or path.startswith((":memory:", "file:")) or path[-1] == "/":
        example = "sqlite:///path/to/file.db"
        raise ValueError(f"must have the path of a file: {example}")
    if not Path(path).absolute().parent.is_dir():
        raise ValueError(f"is in a directory that is not there: {Path(path).parent}")
    return Path(path)


def read(variable: str, url: str) -> "SQLite | PostgreSQL":
    """Return what the service needs to know about the database of this variable."""
    try:
        return choose(url)
    except ValueError as error:
        raise ValueError(f"{variable} {error}") from None


primary = standbys = read("DATABASE_URL", settings.database_url)
if settings.database_read_url.strip():
    standbys = read("DATABASE_READ_URL", settings.database_read_url)
    if not (primary.on_a_server and standbys.on_a_server):
        raise ValueError("DATABASE_READ_URL needs PostgreSQL, as DATABASE_URL too")
