"""The OpenAPI document and the pages made from it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from helpers import ADA, JSON, TOKEN, refused
from service import ROOT, StartService

OPERATIONS = {
    ("/users", "get"): "read_users",
    ("/users", "post"): "create_user",
    ("/users/{user_id}", "get"): "read_user",
    ("/users/{user_id}", "patch"): "update_user",
    ("/users/{user_id}", "delete"): "delete_user",
    ("/health", "get"): "health",
}


# Which statuses an operation has is said by the README's table, see documents/test_readme.py.
def test_every_operation_has_its_functions_name_and_says_that_it_may_be_503(
    client: httpx.Client,
) -> None:
    paths = client.get("/openapi.json").json()["paths"]

    for (path, method), name in OPERATIONS.items():
        assert paths[path][method]["operationId"] == name
    for path, operations in paths.items():
        for method, operation in operations.items():
            assert "503" in operation["responses"], (method, path)


def test_no_two_operations_have_the_same_id(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]

    ids = [operation["operationId"] for path in paths.values() for operation in path.values()]

    assert len(ids) == len(set(ids)) >= len(OPERATIONS)


def exported(**environment: str) -> Any:
    """Return the document as generators of clients read it: without a server."""
    code = "import json, main; print(json.dumps(main.app.openapi()))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("token", ["", TOKEN], ids=["open", "with a token"])
def test_the_document_is_the_same_whether_it_is_served_or_exported(
    start: StartService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("API_TOKEN", token)
    url = f"sqlite:///{tmp_path}/users.db"
    with start(url).wait() as client:
        served = client.get("/openapi.json").json()

        assert exported(DATABASE_URL=url) == served
        assert client.get("/openapi.json").json() == served
        assert "servers" not in served
        assert ("securitySchemes" in served["components"]) == bool(token)


def test_every_id_has_64_bits_for_the_clients_whose_language_asks(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    ids = [document["components"]["schemas"]["UserRead"]["properties"]["id"]]
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", []):
                if parameter["name"] in ("user_id", "after"):
                    ids.append(parameter["schema"])

    assert len(ids) == 5  # of a user; in GET, PATCH and DELETE of one; `after`
    for schema in ids:
        assert (schema["type"], schema["format"]) == ("integer", "int64")
        assert schema["maximum"] == 2**53 - 1


def test_without_a_token_every_operation_says_that_it_is_open(client: httpx.Client) -> None:
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        for method, operation in operations.items():
            assert operation["security"] == [], (method, path)


def test_a_refused_value_always_has_its_detail(client: httpx.Client) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]

    assert schemas["HTTPValidationError"]["required"] == ["detail"]


def test_the_documented_limits_are_those_of_the_service(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()

    (user_id, *_) = document["paths"]["/users/{user_id}"]["get"]["parameters"]
    assert user_id["schema"]["minimum"] == 1
    assert user_id["schema"]["maximum"] == 2**53 - 1
    email = document["components"]["schemas"]["UserCreate"]["properties"]["email"]
    assert email["maxLength"] == 254
    assert email["format"] == "email"
    assert all(tag["description"] for tag in document["tags"])


def test_every_field_that_a_caller_sends_or_gets_has_an_example(client: httpx.Client) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]

    for name in ("UserCreate", "UserUpdate", "UserRead"):
        for field, schema in schemas[name]["properties"].items():
            assert "examples" in schema, (name, field)


def test_ids_and_changes_have_examples_of_their_own(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()

    for operation in document["paths"]["/users/{user_id}"].values():
        assert operation["parameters"][0]["schema"]["example"] == 1
    assert document["components"]["schemas"]["UserUpdate"]["examples"] == [{"name": "Ada King"}]


def test_every_answer_and_header_is_described(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]

    for path, method in OPERATIONS:
        for status, answer in paths[path][method]["responses"].items():
            where = method, path, status
            assert answer["description"] not in ("Successful Response", "Validation Error"), where
            for header in answer.get("headers", {}).values():
                assert header["description"], where


def test_only_what_takes_a_body_says_something_about_it(client: httpx.Client) -> None:
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        for method, operation in operations.items():
            answers = operation["responses"]
            assert ("413" in answers) == ("requestBody" in operation), (method, path)
            if "requestBody" not in operation:
                for status, answer in answers.items():
                    assert "body" not in answer["description"], (method, path, status)


def test_a_long_body_is_refused_as_documented(client: httpx.Client) -> None:
    documented = client.get("/openapi.json").json()["paths"]["/users"]["post"]["responses"]["413"]

    for content in (b" " * 70_000, (b" " * 10_000 for _ in range(7))):
        answer = client.post("/users", content=content, headers=JSON)

        assert answer.status_code == 413
        assert answer.json() == documented["content"]["application/json"]["example"]


def test_a_refusal_has_the_documented_fields(client: httpx.Client) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]

    (fault,) = client.get("/users/0").json()["detail"]

    assert set(fault) == set(schemas["ValidationError"]["properties"])


def test_an_unknown_name_is_answered_with_the_known_ones_and_not_repeated(
    client: httpx.Client,
) -> None:
    for answer, known in (
        (client.get("/users", params={"s3cret": 1}), "limit, after, email"),
        (client.post("/users", json=ADA | {"s3cret": 1}), "name, email"),
        (client.patch("/users/1", json={"s3cret": 1}), "name, email"),
    ):
        (fault,) = refused(answer)["detail"]
        assert fault["msg"] == f"Only these are known: {known}"
        assert "s3cret" not in answer.text


def test_the_documentation_pages_load_nothing_from_another_host(client: httpx.Client) -> None:
    for page in ("/docs", "/redoc"):
        html = client.get(page)

        assert html.status_code == 200
        sources = re.findall(r'(?:src|href)="([^"]+)"', html.text)
        assert sources
        for source in sources:
            assert source.startswith("/"), source
            assert client.get(source).status_code == 200, source
    assert len(client.get("/static-offline-docs/swagger-ui-bundle.js").content) > 1_000_000
