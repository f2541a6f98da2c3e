"""The OpenAPI document and the pages made from it."""

import re

import httpx

from helpers import ADA, JSON, refused

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
