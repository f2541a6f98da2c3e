"""The schema: the steps make what the models say. See also test_tables.py."""

import httpx
import pytest
import sqlalchemy

from helpers import alembic


@pytest.mark.slow
def test_the_migrations_make_exactly_the_tables_of_the_models(new_database: str) -> None:
    alembic(new_database, "upgrade", "head")

    assert "No new upgrade operations detected" in alembic(new_database, "check")


@pytest.mark.slow
def test_a_step_can_be_taken_back(new_database: str) -> None:
    alembic(new_database, "upgrade", "head")

    alembic(new_database, "downgrade", "-1")
    assert "(head)" not in alembic(new_database, "current")

    alembic(new_database, "upgrade", "head")
    assert "(head)" in alembic(new_database, "current")


def test_plain_sql_needs_only_a_name_and_an_email(
    client: httpx.Client, database: sqlalchemy.Engine
) -> None:
    with database.begin() as connection:
        connection.exec_driver_sql("INSERT INTO users (name, email) VALUES ('A', 'a@example.com')")

    (user,) = client.get("/users").json()

    assert client.get(f"/users/{user['id']}").headers["etag"] == '"1"'
