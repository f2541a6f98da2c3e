"""What the OpenAPI document says of the service and its answers."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.utils import generate_unique_id
from pydantic import BaseModel

from production.http.access import is_open
from production.http.errors import NO_JSON
from production.http.preconditions import CHANGED
from production.settings import settings
from production.sql import errors


class Problem(BaseModel):
    """What went wrong."""

    detail: str


HEADERS = {
    "ETag": ("The version of what was asked for", '"1"'),
    "Link": ("The next page, if there is one", '<?limit=100&after=100>; rel="next"'),
    "Location": ("The address of the user", "/users/1"),
    "Retry-After": ("After how many seconds to try again", "1"),
    "WWW-Authenticate": ("How to send the token", "Bearer"),
}


def headers(*names: str) -> dict[str, Any]:
    """Describe the headers of an answer."""
    described = {}
    for name in names:
        description, example = HEADERS[name]
        text = {"schema": {"type": "string"}, "example": example}
        described[name] = {"description": description} | text
    return {"headers": described}


def problem(detail: str, *names: str, meaning: str = "") -> dict[str, Any]:
    """Describe an answer that says what went wrong in these words."""
    example = {"application/json": {"example": {"detail": detail}}}
    description = {"description": meaning or detail, "model": Problem}
    return description | {"content": example} | headers(*names)


PAGE = {"description": "A page of the list"} | headers("Link")
CREATED = {"description": "The new user"} | headers("ETag", "Location")
NO_USER = problem("No such user")
CONFLICT = problem(errors.TAKEN)
REFERRED = problem(
    errors.REFERRED,
    meaning="Something still refers to the user, who is not deleted",
)
TAKEN = problem(
    "This e-mail is taken",
    "Location",
    meaning="Another user has the e-mail: `Location` says which. So a client that has "
    "lost the answer to a POST can send it again",
)
UNCHANGED = {"description": "It is still in that version"} | headers("ETag")
TAG = {
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "Entity tags, as in `ETag`, or `*`",
}
# For `openapi_extra`: FastAPI's Header would take 0.1 of a read's CPU.
PRECONDITIONS: dict[str, Any] = {
    "parameters": [TAG | {"name": name} for name in ("if-match", "if-none-match")],
    "responses": {
        "412": {
            "description": CHANGED,
            "content": {"application/json": {"example": {"detail": CHANGED}}},
        }
    },
}
SUCCESS = {
    "200": "What was asked for",
    "201": "What was made",
    "204": "It is deleted",
}
TOKEN = {
    "missing": {"value": {"detail": "Not authenticated"}},
    "wrong": {"value": {"detail": "The token is not valid"}},
}
UNAUTHORIZED = {
    **problem("Not authenticated", "WWW-Authenticate"),
    "description": "The token is missing or wrong",
    "content": {"application/json": {"examples": TOKEN}},
}
BODY = {
    400: problem("There was an error parsing the body"),
    413: problem("Content Too Large", meaning="The body is over 64 KiB"),
    415: problem(NO_JSON),
}
FAULT = ("loc", "msg", "type")  # FastAPI's own document has "input", too
INVALID = "A value is not valid: `loc` says where it stands, `msg` what is wrong"
SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "The `API_TOKEN` that the service was started with",
}


def operation_id() -> Callable[[APIRoute], str]:
    """Name operations by their functions, which clients call; a second one by all.

    Two routers may have functions of one name.
    """
    taken: dict[str, str] = {}

    def name(route: APIRoute) -> str:
        unique = generate_unique_id(route)
        if not route.include_in_schema:
            return unique
        first = taken.setdefault(route.name, unique)
        return route.name if first == unique else unique

    return name


ABOUT: dict[str, Any] = {
    "version": "1.0.0",
    "description": "Users with a name and an e-mail, which no two of them share.",
    "contact": {"name": "The maintainers"},
    "license_info": {"name": "MIT", "identifier": "MIT"},
    "openapi_tags": [
        {"name": "users", "description": "List, add, change and delete users"},
        {"name": "health", "description": "Whether the service can be used"},
    ],
    "responses": {
        401: UNAUTHORIZED,
        503: problem(errors.OUTAGE, "Retry-After"),
        **BODY,
    },
    "swagger_ui_parameters": {"syntaxHighlight": False},  # lines then fit on a phone
    "generate_unique_id_function": operation_id(),
}


def complete(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """Return what `app.openapi` is to be: FastAPI's page is "Extending OpenAPI"."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            add_to(generate())
        return generate()

    return openapi


def add_to(document: dict[str, Any]) -> None:
    """Say in the document what FastAPI does not know, of added endpoints too.

    What wants the token says so: Swagger UI then has a button to authorize. Only a body
    can be too long. A refusal repeats nothing of what came in.
    """
    schemas = document["components"]["schemas"]
    fault = schemas["ValidationError"]
    fault["properties"] = {name: fault["properties"][name] for name in FAULT}
    schemas["HTTPValidationError"]["required"] = ["detail"]
    if settings.tokens:
        schemes = document["components"].setdefault("securitySchemes", {})
        schemes["token"] = SCHEME
    ids: set[str] = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            while operation["operationId"] in ids:  # one route with several methods
                operation["operationId"] += f"_{method}"
            ids.add(operation["operationId"])
            secure(operation, closed=bool(settings.tokens) and not is_open(path))
            if "requestBody" not in operation:
                for status in BODY:
                    operation["responses"].pop(str(status), None)
            describe(method, operation["responses"])
            changed = operation["responses"].get("412", {}).get("content", {})
            for content in changed.values():
                content.setdefault("schema", problem_schema(schemas))


def problem_schema(schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the reference to Problem: FastAPI tells two of a name by their modules."""
    long_name = f"{Problem.__module__}.Problem".replace(".", "__")
    name = long_name if long_name in schemas else "Problem"
    return {"$ref": f"#/components/schemas/{name}"}


def secure(operation: dict[str, Any], *, closed: bool) -> None:
    """Say who may call an operation, which may have a login of its own besides."""
    own = operation.get("security", [])
    token: dict[str, Any] = {"token": []}
    operation["security"] = [each | token for each in own or [{}]] if closed else own
    if not operation["security"]:
        operation["responses"].pop("401", None)


def describe(method: str, responses: dict[str, Any]) -> None:
    """Describe the answers that FastAPI has no words for."""
    for status, meaning in SUCCESS.items():
        if status in responses and "Successful" in responses[status]["description"]:
            responses[status]["description"] = meaning
    if "412" in responses and "200" in responses:
        responses["200"] |= headers("ETag")
    if "412" in responses and method == "get":
        responses["304"] = UNCHANGED
    if "422" in responses:
        responses["422"]["description"] = INVALID
