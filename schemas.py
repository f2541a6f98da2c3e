"""What a caller may send, and what it gets back."""

import unicodedata
from typing import Annotated

from pydantic import (
    MISSING,
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    EmailStr,
    Field,
    StringConstraints,
)
from pydantic_core import PydanticCustomError

Name = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True,
        min_length=1,
        max_length=100,
        pattern=r"^[^\x00-\x1f\x7f-\x9f]*$",  # no control characters
    ),
    Field(examples=["Ada Lovelace"]),
]
Email = Annotated[
    EmailStr,
    # Normalized again: J and a caron are two characters, j and a caron are one.
    AfterValidator(lambda email: unicodedata.normalize("NFC", email.lower())),
    Field(max_length=254, examples=["ada@example.com"]),
]


def only_digits(value: object) -> object:
    """Refuse the other spellings that Python reads as a number: +1, 1.0, 1_000, 01."""
    if isinstance(value, str) and (
        not (value.isascii() and value.isdigit()) or (value[0] == "0" and value != "0")
    ):
        raise PydanticCustomError("digits", "Input should be a whole number, written in digits")
    return value


# 64 bits, as in the database.
UserId = Annotated[int, Field(ge=1, le=2**63 - 1), BeforeValidator(only_digits)]


class UserQuery(BaseModel):
    """Which users to list."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, BeforeValidator(only_digits)] = Field(
        100, ge=1, le=1000, description="The most users in one answer"
    )
    after: Annotated[int, BeforeValidator(only_digits)] = Field(
        0, ge=0, le=2**63 - 1, description="The last `id` of the page before"
    )
    email: Email | None = Field(None, description="Only the user with this e-mail, in any case")


class UserCreate(BaseModel):
    """A new user."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    email: Email


class UserUpdate(BaseModel):
    """A change of a user: what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    name: Name | MISSING = MISSING
    email: Email | MISSING = MISSING


class UserRead(BaseModel):
    """A user as stored. Plain types: what is in the database has been checked."""

    model_config = ConfigDict(from_attributes=True)

    id: int = Field(examples=[1])
    name: str = Field(examples=["Ada Lovelace"])
    email: str = Field(examples=["ada@example.com"])


class Health(BaseModel):
    """The service and its database answer."""

    status: str = Field(examples=["ok"])


class Problem(BaseModel):
    """Why a request was not served."""

    detail: str
