"""A page of a list, and the address of the next one."""

from functools import cache
from typing import Any
from urllib.parse import urlencode

from fastapi import Response
from pydantic import BaseModel, TypeAdapter
from sqlalchemy import ColumnElement, Select, inspect
from sqlalchemy.orm import Session

from database import one_select
from production.sql.pages import is_plain, json_of, rows_of


def page_of(
    db: Session,
    model: Any,
    schema: type[BaseModel],
    query: BaseModel,
    **conditions: ColumnElement[bool],
) -> Response:
    """Return rows of a model in the order of their ids, as JSON in the schema's form.

    `query` has `limit` and `after`, the last id seen. Each other field is a filter: a
    column of the model, which must be equal, or a name of one of the conditions, which
    counts if the field was sent. `Link` has the next page (RFC 8288). Raises TypeError
    for a field that is neither.
    """
    columns = filters_of(model, type(query), tuple(conditions))
    values = query.model_dump(exclude_none=True)
    filters = tuple(name for name in columns if name in values)
    given = [conditions[name] for name in query.model_fields_set & conditions.keys()]
    found: Any
    if is_plain(model, schema):
        page = json_of(model, schema, filters, given)
        found = db.execute(page, values, bind_arguments=one_select(db)).one()
    else:
        found = write(db, schema, rows_of(model, filters, given), values)
    body, last = found
    headers = {}
    if last:
        sent = query.model_dump(mode="json", exclude_none=True) | {"after": last}
        headers["Link"] = f'<?{urlencode(sent)}>; rel="next"'
    return Response(body, headers=headers, media_type="application/json")


def write(
    db: Session, schema: type[BaseModel], rows: Select[Any], values: dict[str, Any]
) -> tuple[bytes, int | None]:
    """Let the schema write what a database would write in its own way, as a time."""
    limit = values["limit"]
    one_more = values | {"limit": limit + 1}
    found = db.scalars(rows, one_more, bind_arguments=one_select(db)).all()
    page = list_of(schema)
    shown = page.validate_python(found[:limit], from_attributes=True)
    last = found[limit - 1].id if len(found) > limit else None
    return page.dump_json(shown), last


@cache
def list_of(schema: type[BaseModel]) -> TypeAdapter[list[Any]]:
    """Prepare the schema of a list once: that takes longer than to use it."""
    return TypeAdapter(list[schema])  # type: ignore[valid-type]


@cache
def filters_of(
    model: Any, query: type[BaseModel], conditions: tuple[str, ...]
) -> list[str]:
    """Return the fields of a query that are columns, for which it filters."""
    names = [name for name in query.model_fields if name not in ("limit", "after")]
    columns = [name for name in names if name not in conditions]
    for name in columns:
        if name not in inspect(model).columns:
            field = f"{query.__name__}.{name}"
            raise TypeError(
                f"{field} is no column of {model.__name__}: say what it means, as in "
                f"page_of(..., {name}={model.__name__}.name.contains(query.{name}))"
            )
    return columns
