"""What the tests of the second week share: a database for each module, and a careful client."""

from collections.abc import Callable, Iterator

import httpx
import pytest

from service import Service


@pytest.fixture(scope="module")
def url(create_database: Callable[[], str]) -> str:
    return create_database()


@pytest.fixture
def client(mistaken: Service) -> Iterator[httpx.Client]:
    seen = len(mistaken.log.read_text())
    with mistaken.client() as client:
        yield client
    assert "Traceback" not in (log := mistaken.log.read_text()[seen:]), log
