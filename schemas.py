"""What a caller may send, and what it gets back."""

import re
from typing import Annotated, Any

from email_validator import EmailNotValidError, validate_email
from pydantic import MISSING, BaseModel, ConfigDict, Field, model_validator
from pydantic.functional_validators import AfterValidator, BeforeValidator
from pydantic.json_schema import WithJsonSchema
from pydantic_core import PydanticCustomError

MAX_ID = 2**53 - 1  # JSON readers keep whole numbers exact up to here (RFC 7493, 2.2)
# Of Unicode: controls, and those that turn the direction of a text; what shows nothing,
# up to U+FFFF: a pattern of JavaScript reads no more as one character.
CONTROLS = r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
BLANKS = (
    r"\s\xad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200d\u2060-\u206f"
    r"\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8"
)


def check_email(value: str) -> str:
    """Return the address in lower case, or refuse it with email-validator's reason."""
    try:
        # In lower case before the check, so that what is checked is what is stored;
        # and after it, since the check writes some letters (Cherokee) in capitals.
        checked = validate_email(value.lower(), check_deliverability=False)
    except EmailNotValidError as error:
        # What follows a colon or a bracket may quote what was sent.
        reason = re.split(r"[:(]", str(error))[0].strip(" .")
        if " " in value and "invalid characters" in reason:
            reason += ", a blank: + is %2B in a URL"
        raise PydanticCustomError("email", "{reason}", {"reason": reason}) from None
    return checked.normalized.lower()


def only_digits(value: object) -> object:
    """Refuse the other spellings that Python reads as a number: +1, 1.0, 1_000, 01."""
    if isinstance(value, str) and not re.fullmatch(r"0|[1-9][0-9]*", value):
        message = "Input should be a whole number, written in digits"
        raise PydanticCustomError("digits", message)
    return value


def check_name(value: str) -> str:
    """Refuse a name that nobody can see, or that turns the text around it."""
    if re.search(f"[{CONTROLS}]", value):
        raise PydanticCustomError("controls", "A name has no control characters")
    if not re.search(f"[^{BLANKS}]", value):
        raise PydanticCustomError("blank", "A name has a character that can be seen")
    return value


Name = Annotated[
    str,
    Field(
        min_length=1,
        max_length=100,
        examples=["Ada Lovelace"],
        json_schema_extra={
            "pattern": f"^[^{CONTROLS}]*[^{CONTROLS}{BLANKS}][^{CONTROLS}]*$"
        },
    ),
    AfterValidator(check_name),
]
Email = Annotated[
    str,
    Field(max_length=254, examples=["ada@example.com"]),
    AfterValidator(check_email),
    WithJsonSchema(
        {
            "type": "string",
            "format": "email",
            "maxLength": 254,
            "examples": ["ada@example.com"],
        }
    ),
]
Digits = Annotated[int, BeforeValidator(only_digits)]
# Else clients in Java, Go, C# and others take 32 bits.
INT64: dict[str, Any] = {"format": "int64"}
Id = Annotated[
    int,
    Field(ge=1, le=MAX_ID, json_schema_extra=INT64 | {"example": 1}),  # for /docs
    BeforeValidator(only_digits),
]


class Strict(BaseModel):
    """What comes in: blanks around a text are dropped, unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    @model_validator(mode="before")
    @classmethod
    def name_the_known(cls, sent: Any) -> Any:
        """Refuse what is unknown, and say what is known: its own name may be secret."""
        if isinstance(sent, dict) and not sent.keys() <= cls.model_fields.keys():
            known = {"known": ", ".join(cls.model_fields)}
            raise PydanticCustomError("unknown", "Only these are known: {known}", known)
        return sent


class UserQuery(Strict):
    """Which users to list. A field named as a column of `User` is a filter."""

    limit: Digits = Field(100, ge=1, le=1000, description="The most users in an answer")
    after: Digits = Field(
        0,
        ge=0,
        le=MAX_ID,
        description="The last `id` seen before",
        json_schema_extra=INT64,
    )
    email: Email | MISSING = Field(
        MISSING, description="Only the user with this e-mail"
    )


class UserCreate(Strict):
    """A new user."""

    name: Name
    email: Email


class UserUpdate(Strict):
    """A change of a user: what is left out stays as it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "Ada King"}]})

    name: Name | MISSING = MISSING
    email: Email | MISSING = MISSING


class UserRead(BaseModel):
    """A user, as stored."""

    # Plain types: what is in the database has been checked.
    id: int = Field(le=MAX_ID, examples=[1], json_schema_extra=INT64)
    name: str = Field(examples=["Ada Lovelace"])
    email: str = Field(examples=["ada@example.com"])
