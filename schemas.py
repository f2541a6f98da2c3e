"""What a caller may send, and what it gets back."""

import re
from typing import Annotated, Any

from email_validator import EmailNotValidError, validate_email
from fastapi import Header
from pydantic import MISSING, BaseModel, ConfigDict, Field, create_model
from pydantic.functional_validators import AfterValidator, BeforeValidator
from pydantic.json_schema import WithJsonSchema
from pydantic_core import PydanticCustomError


def check_email(value: str) -> str:
    """Return the address in lower case, or refuse it with email-validator's reason."""
    try:
        # First, so that what is checked is what is stored; again, as IDNA has Cherokee in capitals.
        return validate_email(value.lower(), check_deliverability=False).normalized.lower()
    except EmailNotValidError as error:
        # What follows a colon or a bracket may quote what was sent.
        reason = re.split(r"[:(]", str(error))[0].strip(" .")
        raise PydanticCustomError("email", "{reason}", {"reason": reason}) from None


def only_digits(value: object) -> object:
    """Refuse the other spellings that Python reads as a number: +1, 1.0, 1_000, 01."""
    if isinstance(value, str) and not re.fullmatch(r"0|[1-9][0-9]*", value):
        raise PydanticCustomError("digits", "Input should be a whole number, written in digits")
    return value


TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'


def read_tags(lines: list[str]) -> list[str]:
    """Return the entity tags of If-Match or If-None-Match, or `["*"]`, or `[]` if malformed.

    Several header lines are one list, which may have empty elements (RFC 9110: 5.3, 5.6.1, 8.8.3).
    """
    value = ",".join(lines).strip(" \t")
    well_formed = re.fullmatch(rf"\*|[ \t,]*(?:{TAG}[ \t]*(?:,[ \t,]*|$))*", value)
    return re.findall(rf"{TAG}|\*", value) if well_formed else []


NO_CONTROL_CHARACTERS = r"^[^\x00-\x1f\x7f-\x9f]*$"
Name = Annotated[
    str,
    Field(min_length=1, max_length=100, pattern=NO_CONTROL_CHARACTERS, examples=["Ada Lovelace"]),
]
Email = Annotated[
    str, Field(max_length=254, examples=["ada@example.com"]), AfterValidator(check_email)
]
MAX_ID = 2**53 - 1  # JSON readers keep whole numbers exact up to this one (RFC 7493, 2.2)
Digits = Annotated[int, BeforeValidator(only_digits)]
UserId = Annotated[int, Field(ge=1, le=MAX_ID), BeforeValidator(only_digits)]
# None: the header was left out, which OpenAPI does not call null.
Tags = Annotated[
    list[str] | None,
    AfterValidator(read_tags),
    WithJsonSchema({"type": "string"}),
    Header(description="Entity tags, as in `ETag`, or `*`"),
]


class Strict(BaseModel):
    """What comes in: blanks around a text are dropped, and unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)


class UserQuery(Strict):
    """Which users to list."""

    limit: Digits = Field(100, ge=1, le=1000, description="The most users in one answer")
    after: Digits = Field(0, ge=0, le=MAX_ID, description="The last `id` of the page before")
    email: Email | MISSING = Field(MISSING, description="Only the user with this e-mail")


class UserCreate(Strict):
    """A new user."""

    name: Name
    email: Email


class UserUpdate(Strict):
    """A change of a user: what is left out stays as it is."""

    name: Name | MISSING = MISSING
    email: Email | MISSING = MISSING


class UserRead(BaseModel):
    """A user as stored. Plain types: what is in the database has been checked."""

    model_config = ConfigDict(from_attributes=True)

    id: int = Field(examples=[1])
    name: str = Field(examples=["Ada Lovelace"])
    email: str = Field(examples=["ada@example.com"])


# From here on: what only describes answers, for the OpenAPI document.
Problem = create_model("Problem", detail=str)
Fault = create_model("Fault", type=str, loc=list[str | int], msg=str)
Invalid = create_model("Invalid", detail=list[Fault])  # type: ignore[valid-type]


def describe(meaning: str, model: Any = None, detail: Any = None, **headers: str) -> dict[str, Any]:
    """Describe an answer, with examples of its `detail` and of its headers (`_` for `-`)."""
    example = {"application/json": {"example": {"detail": detail}} if detail else {}}
    texts = {"schema": {"type": "string"}}
    sent = {name.replace("_", "-"): texts | {"example": headers[name]} for name in headers}
    about = {"description": meaning, "headers": sent or None}
    return about | {"model": model, "content": example} if model else about


FAULT = {"type": "missing", "loc": ["body", "email"], "msg": "Field required"}
ANSWERS = {
    200: describe("The user", UserRead, ETag='"1"'),
    201: describe("The new user", UserRead, ETag='"1"', Location="/users/1"),
    304: describe("The user is still in that version", ETag='"1"'),
    400: describe("The body is not JSON", Problem, "There was an error parsing the body"),
    401: describe("No valid token", Problem, "Not authenticated", WWW_Authenticate="Bearer"),
    404: describe("There is no such user", Problem, "No such user"),
    409: describe("The e-mail is taken", Problem, "This e-mail is taken", Location="/users/1"),
    412: describe("The version is another", Problem, "The user has changed since you read it"),
    413: {"description": "The body is over 64 KiB", "content": {"text/plain": {}}},
    422: describe("The request is not valid", Invalid, [FAULT]),
    503: describe("Try again later", Problem, "The database does not answer", Retry_After="1"),
}
PAGE = describe("The users", list[UserRead], Link='<?limit=100&after=100>; rel="next"')


def docs(summary: str, *statuses: int, ok: Any = None) -> dict[str, Any]:
    """Describe an operation on users, with its answers; `ok` is the one with 200."""
    responses = {status: ANSWERS[status] for status in statuses} | ({200: ok} if ok else {})
    return {"summary": summary, "tags": ["users"], "responses": responses}
