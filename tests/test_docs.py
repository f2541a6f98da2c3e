"""The OpenAPI document and the pages made from it."""

import re

import httpx

EXPECTED = {
    ("/users", "get"): ("read_users", {"200", "422", "503"}),
    ("/users", "post"): ("create_user", {"201", "400", "408", "409", "413", "422", "503"}),
    ("/users/{user_id}", "get"): ("read_user", {"200", "304", "404", "422", "503"}),
    ("/users/{user_id}", "patch"): (
        "update_user",
        {"200", "400", "404", "408", "409", "412", "413", "422", "503"},
    ),
    ("/users/{user_id}", "delete"): ("delete_user", {"204", "404", "412", "422", "503"}),
    ("/health", "get"): ("health", {"200", "503"}),
}


def test_every_operation_has_its_functions_name_and_every_status(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    documented = {
        (path, method): (operation["operationId"], set(operation["responses"]))
        for path, operations in paths.items()
        for method, operation in operations.items()
    }
    assert documented == EXPECTED


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
