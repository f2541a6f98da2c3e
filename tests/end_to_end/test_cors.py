"""The recipe for pages of other origins, as it stands in docs/, tried in a real browser."""

import functools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Error, Page, expect

from commands import OPERATIONS, block
from helpers import ADA, GRACE, TOKEN, add
from service import StartService

pytestmark = pytest.mark.slow

SHOP = Path(__file__).with_name("shop.html").read_text()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def origin(directory: Path) -> Iterator[str]:
    """Serve the pages in this directory on a port of their own, which makes them an origin."""
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(directory))
    ) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.fixture
def origins(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Two origins with the same pages, those in `pages`."""
    pages = tmp_path / "pages"
    pages.mkdir()
    with origin(pages) as one, origin(pages) as other:
        yield one, other


@pytest.fixture
def client(
    project: Path,
    origins: tuple[str, str],
    start: StartService,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[httpx.Client]:
    """A client of the service with the recipe in it, for the first of the origins, and Ada."""
    recipe = block(OPERATIONS, "cors")
    assert recipe.count("https://shop.example.com") == 1
    with (project / "main.py").open("a") as main:
        main.write(recipe.replace("https://shop.example.com", origins[0]))
    monkeypatch.setenv("API_TOKEN", TOKEN)
    service = start(f"sqlite:///{project}/users.db", cwd=project)
    with service.wait() as client:
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        add(client, ADA)
        script = SHOP.replace("SERVICE", service.url).replace("TOKEN", TOKEN)
        (project / "pages/index.html").write_text(script.replace("GRACE", json.dumps(GRACE)))
        yield client


def read(page: Page, address: str) -> Any:
    """Open a page and return what its script could read."""
    page.goto(address)
    shown = page.locator("pre")
    expect(shown).not_to_be_empty()
    return json.loads(shown.inner_text())


def test_a_page_of_an_origin_that_is_allowed_does_everything_and_reads_the_headers(
    page: Page, client: httpx.Client, origins: tuple[str, str]
) -> None:
    answers = read(page, origins[0])

    assert answers == [
        {"status": 201, "ETag": '"1"', "Location": "/users/2"},
        {"status": 200, "Link": '<?limit=1&after=1>; rel="next"'},
        {"status": 304, "ETag": '"1"'},
        {"status": 200, "ETag": '"2"'},
        {"status": 412},
        {"status": 204},
        {"status": 401},
    ]
    assert [user["name"] for user in client.get("/users").json()] == [ADA["name"]]


def test_a_page_of_another_origin_reads_and_changes_nothing(
    page: Page, client: httpx.Client, origins: tuple[str, str]
) -> None:
    answers = read(page, origins[1])
    with pytest.raises(Error, match="Failed to fetch"):  # also what a browser asks for right away
        page.evaluate("address => fetch(address)", f"{client.base_url}/health")

    assert answers == "TypeError: Failed to fetch"
    assert [user["name"] for user in client.get("/users").json()] == [ADA["name"]]
