"""With an API_TOKEN, nobody reaches a user without it; without one, start-up says so."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from helpers import ADA, JSON, TOKEN, add, connect, logged, reason_not_to_start
from service import Service, StartService

WRONG = [
    None,
    b"",
    b"Bearer",
    b"Bearer wrong",
    f"Bearer {TOKEN}x".encode(),
    f"Bearer {TOKEN[:-1]}".encode(),
    f"Bearer {TOKEN.upper()}".encode(),
    f"Basic {TOKEN}".encode(),
    TOKEN.encode(),
    f"Bearer {TOKEN}, Bearer {TOKEN}".encode(),
    b"Bearer \xe9",
]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"]
SPELLINGS = [
    *("/users", "/users/", "//users", "/users//", "/Users", "/users/ID", "/users/ID/", "/users?"),
    *("/users%2FID", "/%75sers/ID", "/users/./ID", "/health/../users", "/users;x"),
]
CONTENTS = [b"", b"{", b'{"name": "Changed", "email": "new@example.com"}']


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    """A database: which one it is has nothing to do with the token."""
    return f"sqlite:///{tmp_path}/users.db"


@pytest.fixture(scope="module")
def service(_start: StartService, tmp_path_factory: pytest.TempPathFactory) -> Service:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("API_TOKEN", TOKEN)
        service = _start(f"sqlite:///{tmp_path_factory.mktemp('token')}/users.db")
    service.wait().close()
    return service


@pytest.fixture
def owner(service: Service) -> Iterator[httpx.Client]:
    with service.client(headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        yield client
        for user in client.get("/users").json():
            client.delete(f"/users/{user['id']}")
    assert "Traceback" not in (log := service.log.read_text()), log


def stranger(owner: httpx.Client, **headers: str) -> httpx.Client:
    return httpx.Client(base_url=owner.base_url, headers=headers, timeout=30, verify=False)


def test_the_owner_of_the_token_can_do_everything(owner: httpx.Client) -> None:
    address = add(owner, ADA).headers["location"]
    assert owner.get("/users").status_code == 200
    assert owner.get(address).status_code == 200
    assert owner.patch(address, json={"name": "Ada"}).status_code == 200
    assert owner.delete(address).status_code == 204


@pytest.mark.slow
@pytest.mark.parametrize("root_path", ["/api", "/api/", "/"])
def test_behind_a_prefix_the_same_addresses_are_open_and_all_others_closed(
    start: StartService, sqlite: str, monkeypatch: pytest.MonkeyPatch, root_path: str
) -> None:
    monkeypatch.setenv("API_TOKEN", TOKEN)
    with start(sqlite, "--root-path", root_path).wait() as client:
        for address in ("/health", "/docs", "/openapi.json"):
            assert client.get(address).status_code == 200
        for address in ("/users", "/users/1", "/nothing", "/api/users"):
            assert client.get(address).status_code == 401
        allowed = {"Authorization": f"Bearer {TOKEN}"}
        assert client.get("/users", headers=allowed).json() == []


def test_no_method_gets_by_without_the_token(owner: httpx.Client) -> None:
    ada = add(owner, ADA)
    operations = [
        (method.upper(), address)
        for path, methods in owner.get("/openapi.json").json()["paths"].items()
        for method in methods
        for address in (
            path.replace("{user_id}", str(ada.json()["id"])),
            path.replace("{user_id}", "x"),
        )
        if path != "/health"
    ]
    operations += [("GET", "/users/"), ("POST", "/users/")]

    with stranger(owner) as client:
        for authorization, (method, address) in itertools.product(WRONG, operations):
            headers = {b"Authorization": authorization} if authorization is not None else {}

            answer = client.request(
                method, f"{address}?limit=x", json={"name": "Changed"}, headers=headers
            )

            assert answer.status_code == 401, (method, address)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert set(answer.json()) == {"detail"}

    assert owner.get("/users").json() == [ada.json()]
    assert owner.get(ada.headers["location"]).headers["etag"] == '"1"'


def test_no_spelling_of_an_address_gets_by_without_the_token(owner: httpx.Client) -> None:
    ada = add(owner, ADA)
    root = str(owner.base_url).rstrip("/")

    with stranger(owner, **JSON) as client:
        for method, address, content in itertools.product(METHODS, SPELLINGS, CONTENTS):
            # httpx would take //users, after a base_url, for a host.
            url = root + address.replace("ID", str(ada.json()["id"]))

            answer = client.request(method, url, content=content)

            assert 400 <= answer.status_code < 500, (method, address)
            assert "ada" not in answer.text.lower()

    assert owner.get("/users").json() == [ada.json()]
    assert owner.get(ada.headers["location"]).headers["etag"] == '"1"'


def test_health_the_root_and_the_documentation_need_no_token(owner: httpx.Client) -> None:
    with stranger(owner) as client:
        for address in ("/health", "/docs", "/redoc", "/openapi.json"):
            assert client.get(address).status_code == 200
        assert client.get("/").headers["location"] == "/docs"


@pytest.mark.slow
def test_the_token_is_documented_so_that_docs_can_authorize(
    owner: httpx.Client, client: httpx.Client
) -> None:
    secured = owner.get("/openapi.json").json()

    (name,) = secured["components"]["securitySchemes"]
    assert secured["components"]["securitySchemes"][name]["scheme"] == "bearer"
    for path, operations in secured["paths"].items():
        for operation in operations.values():
            if path == "/health":
                assert operation["security"] == []
            else:
                assert operation["security"] == [{name: []}]
                assert "401" in operation["responses"]
    open_document = client.get("/openapi.json").json()
    assert "securitySchemes" not in open_document["components"]
    assert "401" not in open_document["paths"]["/users"]["get"]["responses"]


def test_a_wrong_token_is_told_from_a_missing_one_as_documented(owner: httpx.Client) -> None:
    answers = owner.get("/openapi.json").json()["paths"]["/users"]["get"]["responses"]
    examples = answers["401"]["content"]["application/json"]["examples"]

    with stranger(owner) as client:
        missing = client.get("/users")
        wrong = client.get("/users", headers={"Authorization": f"Bearer {TOKEN}x"})

    assert missing.json() == examples["missing"]["value"]
    assert wrong.json() == examples["wrong"]["value"]
    assert missing.json() != wrong.json()


@pytest.mark.slow
def test_while_one_token_replaces_the_other_both_are_taken_and_nothing_else(
    start: StartService, sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, old = f"new-{TOKEN}", f"old-{TOKEN}"
    monkeypatch.setenv("API_TOKEN", f"{new},{old}")
    service = start(sqlite)
    with service.wait() as client:
        for token in (new, old):
            allowed = {"Authorization": f"Bearer {token}"}
            assert client.get("/users", headers=allowed).status_code == 200
            assert client.post("/users", headers=allowed).status_code == 422
        others = ["", ",", TOKEN, f"{new},{old}", f"{old},{new}", f"{new},", f",{old}", new[:-1]]
        for token in others:
            wrong = {"Authorization": f"Bearer {token}".strip()}
            assert client.get("/users", headers=wrong).status_code == 401, token
        assert client.get("/users").status_code == 401
        schemes = client.get("/openapi.json").json()["components"]["securitySchemes"]
        assert len(schemes) == 1
    assert TOKEN not in service.log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("token", [f"{TOKEN},", f",{TOKEN}"])
def test_a_comma_without_a_second_token_lets_nobody_in(
    start: StartService, sqlite: str, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("API_TOKEN", token)
    with start(sqlite).wait() as client:
        # Blanks alone, which httpx would not send, and uvicorn passes on as they came.
        for sent, status in {"": 401, "  ": 401, ",": 401, token: 401, TOKEN: 200}.items():
            with connect(client) as connection:
                connection.sendall(
                    "GET /users HTTP/1.1\r\nHost: localhost\r\n"
                    f"Authorization: Bearer {sent}\r\n\r\n".encode()
                )

                assert connection.recv(4096).startswith(f"HTTP/1.1 {status} ".encode()), sent


def test_the_token_is_never_logged(owner: httpx.Client, service: Service) -> None:
    add(owner, ADA)
    with stranger(owner, Authorization=f"Bearer {TOKEN}x") as client:
        assert client.get("/users").status_code == 401

    log = logged(service.log, '" 401')

    assert TOKEN not in log
    assert "API_TOKEN" not in log


@pytest.mark.slow
def test_a_service_without_a_token_says_so_once(start: StartService, sqlite: str) -> None:
    service = start(sqlite)
    with service.wait() as client:
        assert client.get("/users").status_code == 200

        assert service.log.read_text().count("API_TOKEN is not set") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "token",
    [
        "s3cret two",
        "s3cret\n",
        "s3cr\N{LATIN SMALL LETTER E WITH ACUTE}t",
        "s3cret, s3cret2",
        "s3cret,s3cret2 ",
    ],
)
def test_a_token_that_no_client_can_send_stops_the_start_with_the_reason(
    token: str, sqlite: str
) -> None:
    said = reason_not_to_start(API_TOKEN=token, DATABASE_URL=sqlite)

    assert said.splitlines()[-1].startswith("ValueError: API_TOKEN has a character that no client")
    assert "s3cr" not in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("change-me", "is change-me, as in the example: make your own"),
        ("s3cret,change-me", "is change-me, as in the example: make your own"),
        (",", "has commas, and no token: the service would be open"),
    ],
)
def test_a_token_that_keeps_nobody_out_stops_the_start_with_the_reason(
    token: str, reason: str, sqlite: str
) -> None:
    said = reason_not_to_start(API_TOKEN=token, DATABASE_URL=sqlite)

    assert said.splitlines()[-1] == f"ValueError: API_TOKEN {reason}"
    assert "s3cret" not in said
