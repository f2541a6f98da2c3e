"""Entity tags: the version of a user, in HTTP's words (RFC 9110, 8.8.3 and 13.1)."""

import re
from typing import Annotated, Any

from fastapi import Header, HTTPException
from pydantic.functional_validators import AfterValidator
from pydantic.json_schema import WithJsonSchema
from sqlalchemy import ColumnElement, String

TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'


def read_tags(lines: list[str]) -> list[str]:
    """Return the tags of If-Match or If-None-Match: `["*"]`, or `[]` if malformed.

    Several header lines are one list, which may have empty elements (5.3, 5.6.1).
    """
    value = ",".join(lines).strip(" \t")
    well_formed = rf"\*|[ \t,]*(?:{TAG}[ \t]*(?:,[ \t,]*|$))*"
    if not re.fullmatch(well_formed, value):
        return []
    return re.findall(rf"{TAG}|\*", value)


# None: the header was left out, which OpenAPI does not call null.
Tags = Annotated[
    list[str] | None,
    AfterValidator(read_tags),
    WithJsonSchema({"type": "string"}),
    Header(description="Entity tags, as in `ETag`, or `*`"),
]


def etag(version: int) -> str:
    """Return the tag of a version."""
    return f'"{version}"'


def is_known(version: int, if_none_match: Tags) -> bool:
    """Tell whether the client has this version. A weak tag, W/"1", matches, too."""
    tag = etag(version)
    return not {"*", tag, f"W/{tag}"}.isdisjoint(if_none_match or ())


def unchanged(version: ColumnElement[Any], if_match: Tags) -> list[ColumnElement[bool]]:
    """Return the condition that a row has one of the versions, if there are any."""
    if if_match is None or "*" in if_match:
        return []
    return [version.cast(String).in_(tag.strip('"') for tag in if_match)]


def precondition_failed(if_match: Tags) -> HTTPException:
    """Return 412, and what to do about a tag that never matches."""
    if not if_match:
        return HTTPException(412, "If-Match is malformed: send the ETag as it came")
    if any(tag.startswith("W/") for tag in if_match or ()):
        detail = "A weak tag, W/..., never matches: a proxy has weakened the ETag"
        return HTTPException(412, detail)
    return HTTPException(412, "The user has changed since you read it")
