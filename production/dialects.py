"""Which database DATABASE_URL means, and DATABASE_READ_URL."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from production.sqlite import SQLite

if TYPE_CHECKING:
    from production.postgresql import PostgreSQL


def choose(url: str) -> "SQLite | PostgreSQL":
    """Return what the service needs to know about the database of this URL.

    Without a URL, that is the file `users.db` beside the code. Raises ValueError if
    the URL is of another database.
    """
    if not url:
        return SQLite(Path(__file__).parent.with_name("users.db"))
    if url[0] in "\"'":
        raise ValueError("DATABASE_URL must not be in quotes")
    read = re.fullmatch(r"(\w+)(\+\w+)?://(.*)", url, re.DOTALL)
    name, driver, rest = read.groups() if read else ("", None, "")
    if name not in ("sqlite", "postgres", "postgresql"):
        raise ValueError("DATABASE_URL must start with sqlite:/// or postgresql://")
    if driver not in (None, "+pysqlite", "+psycopg"):
        raise ValueError(f"DATABASE_URL must start with {name}://, without {driver}")
    if name == "sqlite":
        return SQLite(path_of(rest))
    # Not at the top: the driver takes 6 MB.
    from production.postgresql import PostgreSQL  # noqa: PLC0415

    return PostgreSQL(rest)


def path_of(rest: str) -> Path:
    """Return the path in what follows sqlite://, whatever it is called.

    Raises ValueError for options, or if no file can be there.
    """
    path = rest.removeprefix("/")
    options = re.search(r"\?\w+=[^/]*$", path)
    if not path or options or path.startswith((":memory:", "file:")):
        example = "sqlite:///path/to/file.db"
        raise ValueError(f"DATABASE_URL must have the path of a file: {example}")
    if not Path(path).absolute().parent.is_dir():
        raise ValueError(f"DATABASE_URL: there is no directory {Path(path).parent}")
    return Path(path)


def choose_reads() -> "SQLite | PostgreSQL":
    """Return the same for the reads, which standbys may answer.

    Raises ValueError unless both are PostgreSQL: a file of SQLite has no standbys.
    """
    url = os.environ.get("DATABASE_READ_URL", "").strip()
    if not url:
        return dialect
    if not dialect.on_a_server or url.startswith("sqlite"):
        raise ValueError("DATABASE_READ_URL needs PostgreSQL, as DATABASE_URL too")
    try:
        return choose(url)
    except ValueError as error:
        sentence = str(error).replace("DATABASE_URL", "DATABASE_READ_URL")
        raise ValueError(sentence) from None


dialect = choose(os.environ.get("DATABASE_URL", "").strip())
reads = choose_reads()
