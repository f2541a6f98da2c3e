"""Every setting of the service."""

import os
import re
from functools import cached_property
from pathlib import Path

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

LOCK_TIMEOUT = 4  # seconds: a statement waits for a lock, a request for a permit
ROOT = Path(__file__).parent.parent
EXAMPLE = "change-me"  # the token of .env.example
SECRETS = [Path("/run/secrets"), Path(os.environ.get("CREDENTIALS_DIRECTORY", "/none"))]


class Settings(BaseSettings):
    """Read from the environment, else from `.env` beside the code, else from secrets.

    A secret is a file of a setting's name, as Docker and systemd mount it.
    """

    model_config = SettingsConfigDict(
        env_file=ROOT / ".env",
        env_file_encoding="utf-8",
        secrets_dir=[path for path in SECRETS if path.is_dir()],
        extra="ignore",  # .env may have settings of other programs
    )

    database_url: str = Field(default="", repr=False)
    database_read_url: str = Field(default="", repr=False)
    database_connections: int = Field(default=60, ge=3)
    api_token: str = Field(default="", repr=False)

    @field_validator("database_connections", mode="before")
    @classmethod
    def not_set(cls, value: object) -> object:
        """Take an empty variable for one that is not set."""
        return value or cls.model_fields["database_connections"].default

    @field_validator("api_token")
    @classmethod
    def can_be_sent(cls, value: str) -> str:
        """Refuse a token that no client can send (RFC 6750, 2.1) or that all know."""
        if not re.fullmatch("[!-~]*", value):
            unsendable = "has a character that no client can send"
            raise ValueError(f"{unsendable}: use ASCII, no blanks")
        if EXAMPLE in value.split(","):
            raise ValueError(f"is {EXAMPLE}, as in the example: make your own")
        if value and not value.strip(","):  # as of $NEW,$OLD, of which none is set
            raise ValueError("has commas, and no token: the service would be open")
        return value

    @cached_property
    def tokens(self) -> list[bytes]:
        """Return what a client may send: two tokens, while one replaces the other."""
        return [token.encode() for token in self.api_token.split(",") if token]


def read_settings() -> Settings:
    """Return the settings. Raises ValueError, which says what to change."""
    try:
        return Settings()
    except UnicodeDecodeError:
        raise ValueError("the file .env must be in UTF-8") from None
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        name = str(first["loc"][0]).upper()
        reason = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
        raise ValueError(f"{name} {reason}") from None


settings = read_settings()
