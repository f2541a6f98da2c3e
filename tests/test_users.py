"""What a caller sees: the table of addresses in the README, row by row."""

import re
from typing import Any

import httpx
import pytest
import sqlalchemy

ADA = {"name": "Ada Lovelace", "email": "ada@example.com"}
GRACE = {"name": "Grace Hopper", "email": "grace@example.com"}


def add(client: httpx.Client, user: dict[str, str]) -> httpx.Response:
    answer = client.post("/users", json=user)
    assert answer.status_code == 201, answer.text
    return answer


def add_many(database: sqlalchemy.Engine, count: int, name: str = "User") -> None:
    """Load users the way an operator would, with plain SQL."""
    with database.begin() as connection:
        connection.execute(
            sqlalchemy.text("INSERT INTO users (name, email) VALUES (:name, :email)"),
            [{"name": name, "email": f"user{n}@example.com"} for n in range(count)],
        )


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


def test_following_next_links_visits_every_user_once(
    client: httpx.Client, database: sqlalchemy.Engine
) -> None:
    add_many(database, 25)
    seen: list[dict[str, Any]] = []
    address: str | None = "/users?limit=10"
    sizes = []
    while address:
        page = client.get(address)
        sizes.append(len(page.json()))
        seen += page.json()
        link = re.fullmatch(r'<(/users\?[^>]*)>; rel="next"', page.headers.get("link", ""))
        address = link[1] if link else None
        assert bool(link) is ("link" in page.headers)
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


def test_the_next_link_never_repeats_the_host_that_the_client_claims(
    client: httpx.Client, database: sqlalchemy.Engine
) -> None:
    add_many(database, 2)
    for address in ("/users?limit=1", "/users/?limit=1"):
        answer = client.get(address, headers={"Host": "evil.example"})
        assert answer.headers["link"].startswith("</users?")
        assert "evil" not in str(answer.headers) + answer.text


def test_a_user_is_found_by_email_in_any_case(client: httpx.Client) -> None:
    ada = add(client, ADA).json()
    add(client, GRACE)
    assert client.get("/users", params={"email": "ADA@Example.com"}).json() == [ada]
    assert client.get("/users", params={"email": "nobody@example.com"}).json() == []
    assert client.get("/users", params={"email": "no e-mail"}).status_code == 422


def test_an_unknown_query_parameter_is_refused_rather_than_ignored(client: httpx.Client) -> None:
    assert client.get("/users?page=2").status_code == 422


def test_an_unchanged_user_is_not_sent_again(client: httpx.Client) -> None:
    ada = add(client, ADA)
    address, tag = ada.headers["location"], ada.headers["etag"]
    for matching in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = client.get(address, headers={"If-None-Match": matching})
        assert answer.status_code == 304
        assert answer.content == b""
        assert answer.headers["etag"] == tag
    answer = client.get(address, headers={"If-None-Match": '"2"'})
    assert answer.status_code == 200
    assert answer.headers["etag"] == tag


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Augusta Ada King"},
        {"email": "countess@example.com"},
        {"name": "Augusta Ada King", "email": "countess@example.com"},
        {},
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


def test_a_change_based_on_an_old_version_changes_nothing(client: httpx.Client) -> None:
    ada = add(client, ADA)
    address, old = ada.headers["location"], ada.headers["etag"]
    new = client.patch(address, json={"name": "New"}, headers={"If-Match": old})
    assert new.status_code == 200
    for stale in (old, f"W/{new.headers['etag']}", "2", ""):
        answer = client.patch(address, json={"name": "Lost"}, headers={"If-Match": stale})
        assert answer.status_code == 412, stale
        answer = client.delete(address, headers={"If-Match": stale})
        assert answer.status_code == 412, stale
    assert client.get(address).json()["name"] == "New"
    for fresh in (new.headers["etag"], '"other", "3"', "*"):
        answer = client.patch(address, json={"name": "Newer"}, headers={"If-Match": fresh})
        assert answer.status_code == 200, fresh
    assert client.delete(address, headers={"If-Match": '"5"'}).status_code == 204


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
        {"name": "Ada\x07Lovelace", "email": "ada@example.com"},
        {"name": "Ada", "email": "not an e-mail"},
        {"name": "Ada", "email": "a" * 250 + "@example.com"},
        {"name": 1, "email": "ada@example.com"},
        {"name": None, "email": "ada@example.com"},
        {"name": "Ada", "email": "ada@example.com", "id": 7},
        {"name": "Ada", "email": "ada@example.com", "is_admin": True},
        [],
        None,
    ],
)
def test_a_user_that_is_not_valid_is_refused_and_not_stored(
    client: httpx.Client, body: object
) -> None:
    answer = client.post("/users", json=body)
    assert answer.status_code == 422
    assert all(set(fault) == {"type", "loc", "msg"} for fault in answer.json()["detail"])
    assert client.get("/users").json() == []


def test_a_field_cannot_be_changed_to_null(client: httpx.Client) -> None:
    ada = add(client, ADA)
    for change in ({"name": None}, {"email": None}, {"id": 2}, {"version": 7}):
        assert client.patch(ada.headers["location"], json=change).status_code == 422
    assert client.get(ada.headers["location"]).json() == ada.json()


def test_a_user_has_one_address_only(client: httpx.Client) -> None:
    number = add(client, ADA).json()["id"]
    for spelling in (f"+{number}", f"{number}.0", f"%20{number}", f"0{number}", "x", "-1", "0"):
        assert client.get(f"/users/{spelling}").status_code == 422, spelling
    assert client.get(f"/users/{number}/").status_code == 404
    assert client.get(f"/users/{2**63 - 1}").status_code == 404
    assert client.get(f"/users/{2**63}").status_code == 422


def test_a_method_that_an_address_does_not_have_is_answered_with_those_it_has(
    client: httpx.Client,
) -> None:
    for address, allowed in {
        "/users": "GET, POST",
        "/users/": "GET, POST",
        "/users/1": "DELETE, GET, PATCH",
        "/health": "GET",
    }.items():
        answer = client.put(address)
        assert answer.status_code == 405
        assert answer.headers["allow"] == allowed
        assert answer.json() == {"detail": "Method Not Allowed"}


def test_an_unknown_address_is_404_in_json(client: httpx.Client) -> None:
    answer = client.get("/nothing")
    assert answer.status_code == 404
    assert answer.json() == {"detail": "Not Found"}


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
