"""The tenant of a request, chosen by a dependency of the whole app; PostgreSQL does the rest."""

from typing import Annotated

from fastapi import Depends, Header
from sqlalchemy import text
from sqlalchemy.orm import Session

from database import get_db

Tenant = Annotated[str, Header(alias="X-Tenant", pattern="^[a-z]+$")]


def set_local(tenant: Tenant = "none", db: Session = Depends(get_db)) -> None:
    """For row-level security."""
    db.execute(text(f"SET LOCAL app.tenant = '{tenant}'"))


def translate(tenant: Tenant = "public", db: Session = Depends(get_db)) -> None:
    """For a schema of each tenant's own."""
    db.connection(execution_options={"schema_translate_map": {None: tenant}})
