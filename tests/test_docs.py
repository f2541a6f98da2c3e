"""The OpenAPI document and the pages made from it."""

import re

import httpx

OPERATIONS = {
    ("/users", "get"): "read_users",
    ("/users", "post"): "create_user",
    ("/users/{user_id}", "get"): "read_user",
    ("/users/{user_id}", "patch"): "update_user",
    ("/users/{user_id}", "delete"): "delete_user",
    ("/health", "get"): "health",
}


# Which statuses an operation has is said by the README's table, see test_readme.py.
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
