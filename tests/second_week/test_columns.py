"""A column of users is a line in the models and one in each schema, whatever its type."""

import ast
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from helpers import ADA, GRACE, add, alembic, append, logged, refused, replace, sql
from service import StartService

pytestmark = pytest.mark.slow

LIST = "page_of(db, User, UserRead, query)"
CONTAINS = '    contains: Name | MISSING = Field(MISSING, description="A part of the name")'


def add_lines(file: Path, **lines: str) -> None:
    """Add imports below the docstring, and a line at the end of each class of these names."""
    text = file.read_text()
    written, body = text.splitlines(), ast.parse(text).body
    for part in reversed(body):
        name = "imports" if part is body[0] else getattr(part, "name", "")
        if name in lines:
            written.insert(part.end_lineno or 0, lines.pop(name))
    assert not lines, f"not in {file}: {lines}"
    file.write_text("\n".join(written) + "\n")


def upgrade(project: Path, url: str) -> None:
    """Take the step to the new columns, as Alembic writes it."""
    alembic(url, "upgrade", "head", cwd=project)
    sql(url, "INSERT INTO users (name, email) VALUES ('Old', 'old@example.com')")
    alembic(url, "revision", "--autogenerate", "-m", "columns", cwd=project)
    alembic(url, "upgrade", "head", cwd=project)


def same_everywhere(client: httpx.Client, user: httpx.Response) -> dict[str, Any]:
    """Assert that the list and one user say what this answer says, and return that.

    A time may stand in another zone in the answer to who has just sent it.
    """
    one = client.get(f"/users/{user.json()['id']}")
    told: dict[str, Any] = one.json()
    (listed,) = client.get("/users", params={"email": told["email"]}).json()
    assert told == listed
    assert listed in client.get("/users").json()
    assert with_times(told) == with_times(user.json())
    assert one.headers["etag"] == user.headers["etag"]
    return told


def with_times(user: dict[str, Any]) -> dict[str, Any]:
    times = {name: user[name] for name in ("seen", "since") if user.get(name)}
    return user | {name: datetime.fromisoformat(time) for name, time in times.items()}


def test_a_second_unique_column_of_a_user_is_409_by_post_and_by_patch(
    start: StartService, new_database: str, project: Path
) -> None:
    column = "    handle: Mapped[str | None] = mapped_column(String(50), unique=True)"
    add_lines(project / "models.py", User=column)
    add_lines(
        project / "schemas.py",
        UserCreate="    handle: Name | None = None",
        UserUpdate="    handle: Name | None | MISSING = MISSING",
        UserRead="    handle: str | None",
    )
    upgrade(project, new_database)
    with start(new_database, cwd=project).wait() as client:
        ada = add(client, ADA | {"handle": "first"})
        grace = add(client, GRACE | {"handle": "second"})
        before = client.get("/users").json()
        other = {"name": "Other", "email": "other@example.com"}
        address = grace.headers["location"]

        taken = [
            client.post("/users", json=other | {"handle": "first"}),
            client.patch(address, json={"handle": "first"}),
            client.patch(address, json={"name": "X", "handle": "first"}),
        ]
        for answer in taken:
            assert answer.status_code == 409, answer.text
            sentence = refused(answer)["detail"]
            assert len(sentence.split()) > 2
            assert sentence != "This e-mail is taken"
        same_e_mail = [
            client.post("/users", json=ADA | {"handle": "third"}),
            client.patch(address, json={"email": ADA["email"], "handle": "third"}),
        ]
        for answer in same_e_mail:
            assert answer.status_code == 409
            assert refused(answer)["detail"] == "This e-mail is taken"
            assert answer.headers["location"] == ada.headers["location"]

        assert client.get("/users").json() == before
        assert client.get(address).headers["etag"] == grace.headers["etag"]
        assert client.patch(address, json={"handle": "third"}).json()["handle"] == "third"


def test_json_in_a_user_is_written_and_read_as_it_was_sent(
    start: StartService, new_database: str, project: Path
) -> None:
    add_lines(
        project / "models.py",
        imports="from sqlalchemy import JSON",
        User='    likes: Mapped[Any] = mapped_column(JSON, server_default="{}")',
    )
    add_lines(
        project / "schemas.py",
        UserCreate="    likes: dict[str, Any] = {}",
        UserUpdate="    likes: dict[str, Any] | MISSING = MISSING",
        UserRead="    likes: dict[str, Any]",
    )
    upgrade(project, new_database)
    likes: dict[str, Any] = {"tea": True, "numbers": [1, 2.5, None, -(2**53)], "text": 'ü "\\ \n'}
    with start(new_database, cwd=project).wait() as client:
        ada = add(client, ADA | {"likes": likes})
        address = ada.headers["location"]
        assert same_everywhere(client, ada)["likes"] == likes
        assert same_everywhere(client, add(client, GRACE))["likes"] == {}
        assert [user["likes"] for user in client.get("/users").json()] == [{}, likes, {}]

        same = client.patch(address, json={"likes": likes})
        assert same.status_code == 200, same.text
        assert same.headers["etag"] == ada.headers["etag"]
        changes: list[dict[str, Any]] = [
            {"name": "Ada King"},
            {"likes": {"tea": [{}]}},
            {"likes": {}},
        ]
        for change in changes:
            before = client.get(address)
            changed = client.patch(address, json=change)
            assert changed.status_code == 200, changed.text
            assert same_everywhere(client, changed) == before.json() | change
            assert changed.headers["etag"] != before.headers["etag"]

        page = client.get("/users?limit=1")
        second = client.get(page.url.join(page.links["next"]["url"]))
        third = client.get(second.url.join(second.links["next"]["url"]))
        assert page.json() + second.json() + third.json() == client.get("/users").json()
        assert "link" not in third.headers
        assert client.delete(address).status_code == 204


def test_a_time_in_a_user_has_its_zone_and_is_the_same_in_the_list_and_alone(
    start: StartService, new_database: str, project: Path
) -> None:
    add_lines(
        project / "models.py",
        imports="from datetime import datetime\nfrom sqlalchemy import DateTime, func",
        User="""\
    seen: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    since: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now()
    )""",
    )
    add_lines(
        project / "schemas.py",
        imports="from datetime import datetime\nfrom pydantic import AwareDatetime",
        UserCreate="    seen: AwareDatetime | None = None",
        UserUpdate="    seen: AwareDatetime | None | MISSING = MISSING",
        UserRead="    seen: datetime | None\n    since: datetime",
    )
    upgrade(project, new_database)
    with start(new_database, cwd=project).wait() as client:
        sent = "2026-11-25T12:34:56.789012+02:00"
        ada = add(client, ADA | {"seen": sent})
        address = ada.headers["location"]
        told = same_everywhere(client, ada)
        seen = datetime.fromisoformat(told["seen"])
        assert seen.tzinfo
        assert seen == datetime.fromisoformat(sent)
        since = datetime.fromisoformat(told["since"])
        assert since.tzinfo
        assert abs(datetime.now(UTC) - since) < timedelta(minutes=5)

        same = client.patch(address, json={"seen": "2026-11-25T10:34:56.789012Z"})
        assert same.headers["etag"] == ada.headers["etag"]
        changed = client.patch(address, json={"seen": "2026-01-01T00:00:00-05:00"})
        assert changed.status_code == 200, changed.text
        assert changed.headers["etag"] != ada.headers["etag"]
        seen = datetime.fromisoformat(same_everywhere(client, changed)["seen"])
        assert seen == datetime(2026, 1, 1, 5, tzinfo=UTC)
        assert client.patch(address, json={"seen": None}).json()["seen"] is None

        old, _ = client.get("/users").json()
        assert old["seen"] is None
        assert datetime.fromisoformat(old["since"]).tzinfo


def test_a_filter_that_is_no_equality_has_a_place_and_the_link_repeats_it(
    start: StartService, new_database: str, project: Path
) -> None:
    add_lines(project / "schemas.py", UserQuery=CONTAINS)
    condition = "contains=User.name.contains(query.contains)"
    replace(project / "main.py", LIST, f"{LIST[:-1]}, {condition})")
    with start(new_database, cwd=project).wait() as client:
        for number in range(5):
            name = "Ada & Co" if number % 2 else "Grace"
            add(client, {"name": f"Dr {name} {number}", "email": f"user{number}@example.com"})

        page = client.get("/users", params={"limit": 1, "contains": "Ada & Co"})
        assert [user["id"] for user in page.json()] == [2]
        second = client.get(page.url.join(page.links["next"]["url"]))
        assert [user["id"] for user in second.json()] == [4]
        assert "link" not in second.headers
        both = {"contains": "Ada", "email": "user0@example.com"}
        assert client.get("/users", params=both).json() == []
        assert len(client.get("/users", params=both | {"email": "user1@example.com"}).json()) == 1
        assert len(client.get("/users", params={"contains": "Grace"}).json()) == 3
        assert client.get("/users", params={"contains": "nobody"}).json() == []
        assert len(client.get("/users").json()) == 5


def test_a_field_of_the_query_that_is_no_column_and_no_condition_is_500_and_the_log_names_it(
    _start: StartService,  # noqa: PT019 - it lets a service print a traceback
    new_database: str,
    project: Path,
) -> None:
    add_lines(project / "schemas.py", UserQuery=CONTAINS)

    service = _start(new_database, cwd=project)
    with service.wait() as client:
        assert client.get("/users").status_code == 500

    assert "UserQuery.contains is no column of User" in logged(service.log, "TypeError")


def test_rows_of_another_table_are_the_same_in_the_list_and_in_one_user(
    start: StartService, new_database: str, project: Path
) -> None:
    append(
        project / "models.py",
        """    pets: Mapped[list["Pet"]] = relationship(cascade="all, delete-orphan")


class Pet(Base):
    __tablename__ = "pets"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
""",
    )
    replace(
        project / "models.py",
        "\nfrom typing",
        "\nfrom sqlalchemy import ForeignKey\nfrom sqlalchemy.orm import relationship\nfrom typing",
    )
    append(
        project / "schemas.py",
        '    pets: list["PetRead"]\n\n\nclass PetRead(BaseModel):\n    name: str\n',
    )
    upgrade(project, new_database)
    with start(new_database, cwd=project).wait() as client:
        ada = add(client, ADA).json()
        assert ada["pets"] == []
        sql(new_database, f"INSERT INTO pets (name, owner_id) VALUES ('Rex', {ada['id']})")

        one = client.get(f"/users/{ada['id']}").json()

        assert one["pets"] == [{"name": "Rex"}]
        assert client.get("/users").json()[-1] == one
        changed = client.patch(f"/users/{ada['id']}", json={"name": "Ada King"}).json()
        assert changed == one | {"name": "Ada King"}
        assert client.delete(f"/users/{ada['id']}").status_code == 204
