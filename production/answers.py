"""What the OpenAPI document says of the service and its answers."""

from typing import Any

from pydantic import BaseModel

from production.door import API_TOKEN, is_open
from schemas import UserRead


class Problem(BaseModel):
    """What went wrong."""

    detail: str


FAULT = ("loc", "msg", "type")  # FastAPI's own document has "input", too
INVALID = "A value is not valid: `loc` says where it stands, `msg` what is wrong"
TOKEN = {
    "missing": {"value": {"detail": "Not authenticated"}},
    "wrong": {"value": {"detail": "The token is not valid"}},
}
HEADERS = {
    "ETag": ("The version of the user", '"1"'),
    "Link": ("The next page, if there is one", '<?limit=100&after=100>; rel="next"'),
    "Location": ("The address of the user", "/users/1"),
    "Retry-After": ("After how many seconds to try again", "1"),
    "WWW-Authenticate": ("How to send the token", "Bearer"),
}


def describe(meaning: str, *headers: str, model: Any = None) -> dict[str, Any]:
    """Describe an answer, with the headers of these names."""
    described: dict[str, Any] = {"description": meaning, "headers": {}}
    for name in headers:
        description, example = HEADERS[name]
        text = {"schema": {"type": "string"}, "example": example}
        described["headers"][name] = {"description": description} | text
    return described | {"model": model} if model else described


def problem(detail: str, *headers: str, meaning: str = "") -> dict[str, Any]:
    """Describe an answer that says what went wrong in these words."""
    example = {"application/json": {"example": {"detail": detail}}}
    return describe(meaning or detail, *headers, model=Problem) | {"content": example}


ANSWERS = {
    200: describe("The user", "ETag", model=UserRead),
    201: describe("The new user", "ETag", "Location", model=UserRead),
    204: describe("The user is deleted"),
    304: describe("The user is still in that version", "ETag"),
    400: problem("There was an error parsing the body"),
    401: describe("The token is missing or wrong", "WWW-Authenticate", model=Problem)
    | {"content": {"application/json": {"examples": TOKEN}}},
    404: problem("No such user"),
    409: problem(
        "This e-mail is taken",
        "Location",
        meaning="Another user has the e-mail: `Location` says which. So a client that "
        "has lost the answer to a POST can send it again",
    ),
    412: problem("The user has changed since you read it"),
    413: problem("Content Too Large", meaning="The body is over 64 KiB"),
    415: problem("Send JSON, with the header Content-Type: application/json"),
    503: problem("The database does not answer", "Retry-After"),
}
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
    "responses": {status: ANSWERS[status] for status in (401, 413, 503)},
    "swagger_ui_parameters": {"syntaxHighlight": False},  # lines then fit on a phone
    "generate_unique_id_function": lambda route: route.name,
}


def docs(summary: str, *statuses: int, ok: Any = None) -> dict[str, Any]:
    """Describe an operation on users, with its answers; `ok` is the one with 200."""
    responses = {status: ANSWERS[status] for status in statuses}
    if ok:
        responses[200] = ok
    return {"summary": summary, "tags": ["users"], "responses": responses}


LIST = docs("List users", ok=describe("The users", "Link", model=list[UserRead]))
CREATE = docs("Add a user", 201, 400, 409, 415)
READ = docs("Get a user", 200, 304, 404)
UPDATE = docs("Change a user", 200, 400, 404, 409, 412, 415)
DELETE = docs("Delete a user", 204, 404, 412)
HEALTH: dict[str, Any] = {
    "summary": "Check the service",
    "tags": ["health"],
    "operation_id": "health",
    "responses": {
        200: describe("The service and its database answer")
        | {"content": {"application/json": {"example": {"status": "ok"}}}}
    },
}


def complete(document: dict[str, Any]) -> None:
    """Say in the OpenAPI document what FastAPI does not know, of added endpoints too.

    What the door closes wants the token: Swagger UI then has a button to authorize.
    Only a body can be too long. A refusal repeats nothing of what came in.
    """
    scheme = {
        "type": "http",
        "scheme": "bearer",
        "description": "The `API_TOKEN` that the service was started with",
    }
    if API_TOKEN:
        document["components"]["securitySchemes"] = {"token": scheme}
    fault = document["components"]["schemas"]["ValidationError"]
    fault["properties"] = {name: fault["properties"][name] for name in FAULT}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            answers = operation["responses"]
            if API_TOKEN and not is_open(path):
                operation["security"] = [{"token": []}]
            else:
                answers.pop("401", None)
            if "requestBody" not in operation:
                answers.pop("413", None)
            if "422" in answers:
                answers["422"]["description"] = INVALID
