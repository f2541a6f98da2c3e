"""Which database DATABASE_URL means."""

import os
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
    scheme, _, rest = url.partition("://")
    if not url:
        return SQLite(Path(__file__).parent.with_name("users.db"))
    if scheme == "sqlite":
        path = rest.removeprefix("/")
        if not path or path.startswith((":memory:", "file:")) or "?" in path:
            example = "sqlite:///path/to/file.db"
            raise ValueError(f"DATABASE_URL must have the path of a file: {example}")
        return SQLite(Path(path))
    if scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        # Not at the top: the driver takes 6 MB.
        from production.postgresql import PostgreSQL  # noqa: PLC0415

        return PostgreSQL(f"postgresql://{rest}")
    raise ValueError("DATABASE_URL must start with sqlite: or postgresql:")


dialect = choose(os.environ.get("DATABASE_URL", "").strip())
