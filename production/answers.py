"""What the OpenAPI document says of the service and its answers."""

from typing import Any

from pydantic import BaseModel

from production.door import API_TOKEN, is_open
from schemas import UserRead

ABOUT: dict[str, Any] = {
    "version": "1.0.0",
    "description": "Users with a name and an e-mail, which no two of them share.",
    "contact": {"name": "The maintainers"},
    "license_info": {"name": "MIT", "identifier": "MIT"},
    "servers": [{"url": "/"}],
    "openapi_tags": [
        {"name": "users", "description": "List, add, change and delete users"},
        {"name": "health", "description": "Whether the service can be used"},
    ],
    "generate_unique_id_function": lambda route: route.name,
}


class Problem(BaseModel):
    """What went wrong."""

    detail: str


def describe(meaning: str, model: Any = None, **headers: str) -> dict[str, Any]:
    """Describe an answer, with examples of its headers (`_` for `-`)."""
    text = {"type": "string"}
    examples = {
        name.replace("_", "-"): {"schema": text, "example": example}
        for name, example in headers.items()
    }
    described = {"description": meaning, "headers": examples}
    return described | {"model": model} if model else described


def problem(detail: str, **headers: str) -> dict[str, Any]:
    """Describe an answer that says what went wrong in these words."""
    example = {"application/json": {"example": {"detail": detail}}}
    return describe(detail, Problem, **headers) | {"content": example}


ANSWERS = {
    200: describe("The user", UserRead, ETag='"1"'),
    201: describe("The new user", UserRead, ETag='"1"', Location="/users/1"),
    304: describe("The user is still in that version", ETag='"1"'),
    400: problem("There was an error parsing the body"),
    401: problem("Not authenticated", WWW_Authenticate="Bearer"),
    404: problem("No such user"),
    409: problem("This e-mail is taken", Location="/users/1"),
    412: problem("The user has changed since you read it"),
    413: problem("Content Too Large"),
    415: problem("Send JSON, with the header Content-Type: application/json"),
    503: problem("The database does not answer", Retry_After="1"),
}
PAGE = describe("The users", list[UserRead], Link='<?limit=100&after=100>; rel="next"')
EVERYWHERE: dict[int | str, dict[str, Any]] = {
    status: ANSWERS[status] for status in (401, 413, 503)
}


def docs(summary: str, *statuses: int, ok: Any = None) -> dict[str, Any]:
    """Describe an operation on users, with its answers; `ok` is the one with 200."""
    responses = {status: ANSWERS[status] for status in statuses}
    if ok:
        responses[200] = ok
    return {"summary": summary, "tags": ["users"], "responses": responses}


def declare_token(document: dict[str, Any]) -> None:
    """Say in the OpenAPI document what wants the token: all that the door closes.

    Swagger UI then has a button to authorize.
    """
    scheme = {
        "type": "http",
        "scheme": "bearer",
        "description": "The `API_TOKEN` that the service was started with",
    }
    if API_TOKEN:
        document["components"]["securitySchemes"] = {"token": scheme}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if API_TOKEN and not is_open(path):
                operation["security"] = [{"token": []}]
            else:
                operation["responses"].pop("401", None)
