"""What a caller sees: the table of addresses in the README, row by row."""

import stat
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy

from helpers import ADA, GRACE, add, add_many, connect, refused, sql
from service import StartService

MAX_ID = 2**53 - 1


@pytest.mark.parametrize("address", ["/users", "/users/"])
def test_the_list_is_empty_at_first_at_both_addresses(client: httpx.Client, address: str) -> None:
    answer = client.get(address)

    assert answer.status_code == 200
    assert answer.content == b"[]"
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("address", ["/users", "/users/"])
def test_a_new_user_is_answered_with_its_address_and_version(
    client: httpx.Client, address: str
) -> None:
    answer = client.post(address, json=ADA)

    assert answer.status_code == 201
    user = answer.json()
    assert user == {"id": user["id"], **ADA}
    assert answer.headers["location"] == f"/users/{user['id']}"
    assert answer.headers["etag"] == '"1"'
    assert client.get(answer.headers["location"]).json() == user
    assert client.get("/users").json() == [user]


def test_a_name_is_trimmed_and_an_email_is_stored_in_lower_case(client: httpx.Client) -> None:
    user = add(client, {"name": "  Ada\t", "email": "ADA@Example.COM"}).json()

    assert user["name"] == "Ada"
    assert user["email"] == "ada@example.com"


@pytest.mark.parametrize("email", ["ada@example.com", "ADA@example.com", "Ada@EXAMPLE.com"])
def test_a_second_user_cannot_take_the_same_email(client: httpx.Client, email: str) -> None:
    first = add(client, ADA)

    answer = client.post("/users", json={"name": "Another", "email": email})

    assert answer.status_code == 409
    assert answer.headers["location"] == first.headers["location"]
    assert answer.json() == {"detail": "This e-mail is taken"}
    assert client.get("/users").json() == [first.json()]


def test_a_change_cannot_take_the_email_of_another_user(client: httpx.Client) -> None:
    ada, grace = add(client, ADA), add(client, GRACE)

    answer = client.patch(grace.headers["location"], json={"email": ADA["email"]})

    assert answer.status_code == 409
    assert answer.headers["location"] == ada.headers["location"]
    assert client.get(grace.headers["location"]).json() == grace.json()
    assert client.get(grace.headers["location"]).headers["etag"] == '"1"'


@pytest.mark.parametrize("start", ["/users", "/users/"])
def test_following_next_links_visits_every_user_once(
    client: httpx.Client, database: sqlalchemy.Engine, start: str
) -> None:
    add_many(database, 25)
    seen: list[dict[str, Any]] = []
    sizes: list[int] = []

    page = client.get(f"{start}?limit=10")
    while len(sizes) < 10:  # so that a last page which never comes ends the test
        sizes.append(len(page.json()))
        seen += page.json()
        if "link" not in page.headers:
            break
        page = client.get(page.url.join(page.links["next"]["url"]))

    assert sizes == [10, 10, 5]
    assert [user["email"] for user in seen] == [f"user{n}@example.com" for n in range(25)]
    assert [user["id"] for user in seen] == sorted(user["id"] for user in seen)


def test_a_page_that_ends_with_the_last_user_has_no_next_link(
    client: httpx.Client, database: sqlalchemy.Engine
) -> None:
    add_many(database, 10)

    assert "link" not in client.get("/users?limit=10").headers
    assert "link" in client.get("/users?limit=9").headers


def test_a_page_has_100_users_unless_told_and_1000_at_most(
    client: httpx.Client, database: sqlalchemy.Engine
) -> None:
    add_many(database, 1001)

    assert len(client.get("/users").json()) == 100
    assert len(client.get("/users?limit=1000").json()) == 1000
    assert client.get("/users?limit=1001").status_code == 422
    assert client.get("/users?limit=0").status_code == 422


def test_the_next_link_is_relative_and_never_repeats_the_host_that_the_client_claims(
    client: httpx.Client, database: sqlalchemy.Engine
) -> None:
    add_many(database, 2)

    for address in ("/users?limit=1", "/users/?limit=1"):
        answer = client.get(address, headers={"Host": "evil.example"})

        first = answer.json()[0]["id"]
        assert answer.headers["link"] == f'<?limit=1&after={first}>; rel="next"'
        assert "evil" not in str(answer.headers) + answer.text


def test_a_user_is_found_by_email_in_any_case(client: httpx.Client) -> None:
    ada = add(client, ADA).json()
    add(client, GRACE)

    assert client.get("/users", params={"email": "ADA@Example.com"}).json() == [ada]
    assert client.get("/users", params={"email": "nobody@example.com"}).json() == []
    assert client.get("/users", params={"email": "no e-mail"}).status_code == 422


def test_a_plus_in_the_email_to_look_for_is_a_blank_and_the_refusal_says_how_to_write_it(
    client: httpx.Client,
) -> None:
    tagged = add(client, ADA | {"email": "ada+news@example.com"}).json()

    (fault,) = refused(client.get("/users?email=ada+news@example.com"))["detail"]

    assert fault["loc"] == ["query", "email"]
    assert "+ is %2B" in fault["msg"]
    assert "news" not in fault["msg"]
    assert client.get("/users?email=ada%2Bnews@example.com").json() == [tagged]


def test_caches_ask_again_before_they_use_an_answer_about_users(client: httpx.Client) -> None:
    created = client.post("/users", json=ADA)
    address = created.headers["location"]
    answers: dict[int | str, httpx.Response] = {
        200: client.get(address),
        201: created,
        304: client.get(address, headers={"If-None-Match": created.headers["etag"]}),
        404: client.get(f"/users/{MAX_ID}"),
        405: client.put(address),
        409: client.post("/users", json=ADA),
        412: client.patch(address, json={}, headers={"If-Match": '"2"'}),
        422: client.get("/users?limit=x"),
    }
    answers |= {"list": client.get("/users"), "head": client.head(address)}
    answers |= {"change": client.patch(address, json={"name": "A"}), 204: client.delete(address)}

    for expected, answer in answers.items():
        assert answer.status_code == (expected if isinstance(expected, int) else 200)
        assert answer.headers.get_list("cache-control") == ["no-cache"], expected


def test_no_cache_keeps_the_answer_of_health(client: httpx.Client) -> None:
    for method in ("GET", "HEAD"):
        answer = client.request(method, "/health")

        assert answer.headers.get_list("cache-control") == ["no-store"]


def test_an_unknown_query_parameter_is_refused_rather_than_ignored(client: httpx.Client) -> None:
    assert client.get("/users?page=2").status_code == 422


# All kinds of lists are read in unit/test_tags.py; three of each are sent.
@pytest.mark.parametrize("lines", [['"1"'], ['"other"', '"1"'], ['"other", W/"1"']])
def test_an_unchanged_user_is_not_sent_again(client: httpx.Client, lines: list[str]) -> None:
    ada = add(client, ADA)

    answer = client.get(
        ada.headers["location"], headers=[("If-None-Match", line) for line in lines]
    )

    assert answer.status_code == 304
    assert answer.content == b""
    assert answer.headers["etag"] == ada.headers["etag"] == '"1"'


@pytest.mark.parametrize("lines", [['"2"'], ["1"], ['"1"', "x"]])
def test_a_user_is_sent_unless_a_tag_matches(client: httpx.Client, lines: list[str]) -> None:
    ada = add(client, ADA)

    answer = client.get(
        ada.headers["location"], headers=[("If-None-Match", line) for line in lines]
    )

    assert answer.status_code == 200
    assert answer.json() == ada.json()
    assert answer.headers["etag"] == '"1"'


@pytest.mark.parametrize("lines", [['"1"'], ["*"], ['"other"', '"1"']])
def test_a_change_based_on_the_present_version_is_made(
    client: httpx.Client, lines: list[str]
) -> None:
    address = add(client, ADA).headers["location"]
    headers = [("If-Match", line) for line in lines]

    change = client.patch(address, json={"name": "New"}, headers=headers)

    assert change.status_code == 200
    assert client.get(address).json()["name"] == "New"
    assert client.delete(address, headers={"If-Match": '"2"'}).status_code == 204


def test_a_weak_tag_is_told_that_a_proxy_has_weakened_it(client: httpx.Client) -> None:
    address = add(client, ADA).headers["location"]

    for method in ("PATCH", "DELETE"):
        weak = {"If-Match": 'W/"1"'}
        answer = client.request(method, address, json={"name": "X"}, headers=weak)
        assert answer.status_code == 412
        assert "weak" in answer.json()["detail"]
        assert client.get(address).headers["etag"] == '"1"'


@pytest.mark.parametrize("lines", [['"2"'], ['"1"', "x"], ['"other", W/"1"']])
def test_a_change_based_on_another_version_changes_nothing(
    client: httpx.Client, lines: list[str]
) -> None:
    ada = add(client, ADA)
    address = ada.headers["location"]
    headers = [("If-Match", line) for line in lines]

    change = client.patch(address, json={"name": "Lost"}, headers=headers)
    deletion = client.delete(address, headers=headers)

    assert (change.status_code, deletion.status_code) == (412, 412)
    assert client.get(address).json() == ada.json()
    assert client.get(address).headers["etag"] == '"1"'


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Augusta Ada King"},
        {"email": "countess@example.com"},
        {"name": "Augusta Ada King", "email": "countess@example.com"},
    ],
)
def test_a_change_touches_only_the_fields_it_names(
    client: httpx.Client, change: dict[str, str]
) -> None:
    ada = add(client, ADA)

    answer = client.patch(ada.headers["location"], json=change)

    assert answer.status_code == 200
    assert answer.json() == ada.json() | change
    assert answer.headers["etag"] == '"2"'
    read = client.get(ada.headers["location"])
    assert read.json() == answer.json()
    assert read.headers["etag"] == '"2"'


@pytest.mark.parametrize(
    "change", [{}, ADA, {"name": f" {ADA['name']}", "email": "ADA@Example.com"}]
)
def test_a_change_that_changes_nothing_keeps_the_tag(
    client: httpx.Client, change: dict[str, str]
) -> None:
    ada = add(client, ADA)

    answer = client.patch(ada.headers["location"], json=change, headers={"If-Match": '"1"'})

    assert answer.status_code == 200
    assert answer.json() == ada.json()
    assert answer.headers["etag"] == '"1"'
    assert client.get(ada.headers["location"]).headers["etag"] == '"1"'


def test_a_deleted_user_is_gone_and_its_id_is_never_given_out_again(client: httpx.Client) -> None:
    ada = add(client, ADA)
    address = ada.headers["location"]

    answer = client.delete(address)

    assert answer.status_code == 204
    assert answer.content == b""
    assert client.get(address).status_code == 404
    assert client.patch(address, json={"name": "X"}).status_code == 404
    assert client.delete(address).status_code == 404
    assert client.delete(address, headers={"If-Match": '"1"'}).status_code == 404
    assert client.get("/users").json() == []
    assert add(client, ADA).json()["id"] > ada.json()["id"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "Ada"},
        {"email": "ada@example.com"},
        {"name": "", "email": "ada@example.com"},
        {"name": "   ", "email": "ada@example.com"},
        {"name": "x" * 101, "email": "ada@example.com"},
        {"name": "Ada", "email": "a" * 250 + "@example.com"},
        {"name": 1, "email": "ada@example.com"},
        {"name": "Ada", "email": "ada@example.com", "is_admin": True},
        [],
    ],
)
def test_a_user_that_is_not_valid_is_refused_and_not_stored(
    client: httpx.Client, body: object
) -> None:
    answer = client.post("/users", json=body)

    assert answer.status_code == 422
    assert all(set(fault) == {"type", "loc", "msg"} for fault in answer.json()["detail"])
    assert client.get("/users").json() == []


@pytest.mark.parametrize(
    ("email", "reason"),
    [
        ("s3cret", "must have an @-sign"),
        ("s3cret@", "There must be something after the @-sign"),
        ("@s3cret.com", "There must be something before the @-sign"),
        ("ada@s3cret", "should have a period"),
        ("ada@s3cret.test", "special-use or reserved name"),
        ("s3cret@@example.com", "invalid characters"),
        ("s3..cret@example.com", "cannot have two periods in a row"),
        ("ada@s3_cret.com", "invalid characters"),
        ("Ada <s3cret@example.com>", "display name"),
        ("<s3cret@example.com>", "display name"),
        ('"s3cret ada"@example.com', "Quoting"),
        ("s3cret@example.com, ada@example.com", ""),
    ],
)
def test_a_refused_email_comes_with_the_reason_and_without_the_input(
    client: httpx.Client, email: str, reason: str
) -> None:
    ada = add(client, ADA)
    answers = [
        client.post("/users", json={"name": "Ada", "email": email}),
        client.patch(ada.headers["location"], json={"email": email}),
        client.get("/users", params={"email": email}),
    ]

    for answer in answers:
        (fault,) = refused(answer)["detail"]
        assert fault["loc"][-1] == "email"
        assert reason in fault["msg"]
        assert len(fault["msg"]) > 10
        assert "s3" not in answer.text
    assert client.get("/users").json() == [ada.json()]


def test_a_field_cannot_be_changed_to_null(client: httpx.Client) -> None:
    ada = add(client, ADA)

    for change in ({"name": None}, {"email": None}, {"id": 2}, {"version": 7}):
        assert client.patch(ada.headers["location"], json=change).status_code == 422
    assert client.get(ada.headers["location"]).json() == ada.json()


def test_ids_go_as_far_as_json_readers_count_exactly(client: httpx.Client) -> None:
    assert client.get(f"/users/{MAX_ID}").status_code == 404
    assert client.get(f"/users/{MAX_ID + 1}").status_code == 422
    assert client.get(f"/users?after={MAX_ID}").json() == []
    assert client.get(f"/users?after={MAX_ID + 1}").status_code == 422
    assert client.get(f"/users/{add(client, ADA).json()['id']}/").status_code == 404


def test_the_user_with_the_greatest_id_is_served_like_any_other(
    client: httpx.Client, database: sqlalchemy.Engine
) -> None:
    insert = (
        "INSERT INTO users (id, name, email) {} VALUES (:id, 'Ada Lovelace', 'ada@example.com')"
    )
    system_value = {"sqlite": "", "postgresql": "OVERRIDING SYSTEM VALUE"}[database.dialect.name]
    with database.begin() as connection:
        connection.execute(sqlalchemy.text(insert.format(system_value)), {"id": MAX_ID})

    page = client.get("/users?limit=1")

    assert page.json() == [{"id": MAX_ID, **ADA}]
    assert client.patch(f"/users/{MAX_ID}", json={"name": "New"}).json()["id"] == MAX_ID
    assert client.delete(f"/users/{MAX_ID}").status_code == 204
    if database.dialect.name == "sqlite":  # which counts on from the greatest id that ever was
        with database.begin() as connection:
            connection.exec_driver_sql("DELETE FROM sqlite_sequence")


@pytest.mark.slow
def test_when_the_ids_are_used_up_no_user_is_made_that_nobody_could_read(
    _start: StartService,  # noqa: PT019 - it lets a service print a traceback
    new_database: str,
) -> None:
    set_counter = {
        "sqlite": f"UPDATE sqlite_sequence SET seq = {MAX_ID - 1}",
        "postgresql": f"SELECT setval(pg_get_serial_sequence('users', 'id'), {MAX_ID - 1})",
    }
    service = _start(new_database)
    with service.wait() as client:
        ada = add(client, ADA).json()
        sql(new_database, set_counter[new_database.partition(":")[0]])
        last = add(client, GRACE).json()
        assert last["id"] == MAX_ID

        for name in ("one", "two"):
            refusal = client.post("/users", json={"name": name, "email": f"{name}@example.com"})

            assert refusal.status_code == 500
        assert client.get("/users").json() == [ada, last]
        assert sql(new_database, "SELECT id FROM users ORDER BY id") == [(ada["id"],), (MAX_ID,)]
        assert client.patch(f"/users/{MAX_ID}", json={"name": "Changed"}).status_code == 200
        assert client.get("/health").status_code == 200
    log = service.log.read_text()
    assert "one@example.com" not in log
    assert f"less than or equal to {MAX_ID}" in log  # the operator learns why
    service.kill()


def test_a_method_that_an_address_does_not_have_is_answered_with_those_it_has(
    client: httpx.Client,
) -> None:
    for address, allowed in {
        "/users": "GET, HEAD, POST",
        "/users/": "GET, HEAD, POST",
        "/users/1": "DELETE, GET, HEAD, PATCH",
        "/health": "GET, HEAD",
    }.items():
        answer = client.put(address)

        assert answer.status_code == 405
        assert answer.headers["allow"] == allowed
        assert answer.json() == {"detail": "Method Not Allowed"}


def test_an_unknown_address_is_404_in_json(client: httpx.Client) -> None:
    answer = client.get("/nothing")

    assert answer.status_code == 404
    assert answer.json() == {"detail": "Not Found"}


def test_head_is_answered_like_get_without_the_body(
    client: httpx.Client, database: sqlalchemy.Engine
) -> None:
    add_many(database, 2)
    first = client.get("/users").json()[0]["id"]
    addresses = [
        *("/", "/health", "/users", "/users/", "/users?limit=1", "/users?limit=x"),
        *(f"/users/{first}", "/users/0", f"/users/{MAX_ID}", "/nothing"),
        *("/docs", "/redoc", "/openapi.json", "/static-offline-docs/swagger-ui-bundle.js"),
    ]

    def ask(method: str, address: str) -> tuple[set[str], bytes]:
        with connect(client) as connection:
            connection.sendall(
                f"{method} {address} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
            )
            received = b""
            while part := connection.recv(65536):
                received += part
        head, body = received.split(b"\r\n\r\n", 1)
        lines = head.decode().lower().split("\r\n")
        return {line for line in lines if not line.startswith("date:")}, body

    for address in addresses:
        expected, body = ask("GET", address)

        assert ask("HEAD", address) == (expected, b""), address
        assert body or address == "/"


def test_the_address_that_uvicorn_prints_leads_to_the_documentation(client: httpx.Client) -> None:
    answer = client.get("/")

    assert answer.status_code == 307
    assert answer.headers["location"] == "/docs"
    assert "Swagger UI" in client.get("/", follow_redirects=True).text


def leads_back_behind(prefix: str, asked: httpx.Client, seen: httpx.Client) -> None:
    """Assert that every address in an answer has the prefix, as somebody outside sees it."""
    created = add(asked, ADA)
    taken = asked.post("/users", json=ADA)
    add(asked, GRACE)

    assert created.headers["location"] == f"{prefix}/users/1"
    assert taken.status_code == 409
    assert taken.headers["location"] == f"{prefix}/users/1"
    assert asked.get("/users?limit=1").headers["link"] == '<?limit=1&after=1>; rel="next"'
    assert asked.get("/").headers["location"] == f"{prefix}/docs"
    assert f"'{prefix}/openapi.json'" in asked.get("/docs").text
    servers = asked.get("/openapi.json").json().get("servers")
    assert servers == ([{"url": prefix}] if prefix else None)
    assert seen.get(created.headers["location"]).json() == created.json()


@pytest.mark.slow
@pytest.mark.parametrize(("root_path", "prefix"), [("/api", "/api"), ("/api/", "/api"), ("/", "")])
def test_behind_a_proxy_that_removes_a_prefix_every_address_leads_back_there(
    start: StartService, tmp_path: Path, root_path: str, prefix: str
) -> None:
    service = start(f"sqlite:///{tmp_path}/users.db", "--root-path", root_path)
    with service.wait() as client, service.client() as proxy:
        proxy.event_hooks["request"] = [remove_prefix]

        leads_back_behind(prefix, client, proxy)


def remove_prefix(request: httpx.Request) -> None:
    """Do what a proxy does with an address before the service sees it."""
    request.url = request.url.copy_with(path=request.url.path.removeprefix("/api"))


@pytest.mark.slow
def test_mounted_in_another_app_every_address_leads_back_there(
    start: StartService, tmp_path: Path, project: Path
) -> None:
    (project / "outer.py").write_text(
        "from fastapi import FastAPI\n\nimport main\n\n"
        'app = FastAPI()\napp.mount("/inner", main.app)\n'
    )
    service = start(f"sqlite:///{tmp_path}/users.db", cwd=project, app="outer:app")
    with service.wait() as outer, service.client() as inner:
        inner.base_url = httpx.URL(f"{service.url}/inner")
        # The lifespan of a mounted app does not run: the first request makes the tables.
        leads_back_behind("/inner", inner, outer)


def test_health_says_that_the_database_answers(client: httpx.Client) -> None:
    answer = client.get("/health")

    assert answer.status_code == 200
    assert answer.json() == {"status": "ok"}


def test_plain_sql_cannot_store_an_email_that_is_not_in_lower_case(
    client: httpx.Client, database: sqlalchemy.Engine
) -> None:
    insert = sqlalchemy.text("INSERT INTO users (name, email) VALUES ('Ada', 'ADA@example.com')")

    with pytest.raises(sqlalchemy.exc.IntegrityError), database.begin() as connection:
        connection.execute(insert)

    assert client.get("/users").json() == []


def test_an_email_that_looks_the_same_in_lower_case_is_the_same(client: httpx.Client) -> None:
    caron = "\N{COMBINING CARON}"
    first = add(client, {"name": "J", "email": f"J{caron}@example.com"})

    again = client.post("/users", json={"name": "j", "email": f"j{caron}@example.com"})

    assert again.status_code == 409
    assert again.headers["location"] == first.headers["location"]
    for email in (first.json()["email"], f"J{caron}@example.com"):
        assert client.get("/users", params={"email": email}).json() == [first.json()]


@pytest.mark.slow
def test_a_new_sqlite_file_is_readable_by_its_owner_alone(
    start: StartService, tmp_path: Path
) -> None:
    with start(f"sqlite:///{tmp_path}/private.db").wait() as client:
        add(client, ADA)

        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}

    assert modes == dict.fromkeys(["private.db", "private.db-wal", "private.db-shm"], 0o600)
