"""/docs, opened in a real browser that reaches nothing but the service."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect, sync_playwright

from conftest import StartService
from test_token import TOKEN

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def page() -> Iterator[Page]:
    if CHROMIUM is None and not os.environ.get("CI"):
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield browser.new_page(viewport={"width": 1000, "height": 900})
        browser.close()


def execute(page: Page, operation: str) -> str:
    """Open an operation, try it out, and return what the page shows of the answer."""
    block = page.locator(f"#operations-default-{operation}")
    block.locator(".opblock-summary-control").click()
    block.get_by_role("button", name="Try it out").click()
    block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table tbody")
    expect(answer).to_be_visible()
    return answer.inner_text()


def test_docs_adds_and_lists_a_user_with_no_internet(
    page: Page, start: StartService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_TOKEN", TOKEN)
    service = start(f"sqlite:///{tmp_path}/users.db")
    service.wait().close()
    elsewhere: list[str] = []
    problems: list[str] = []

    def stay(route: Route) -> None:
        if route.request.url.startswith((service.url, "data:")):
            route.continue_()
        else:
            elsewhere.append(route.request.url)
            route.abort()

    page.route("**/*", stay)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(f"{service.url}/docs")
    expect(page.get_by_role("heading", name="Users")).to_be_visible()
    assert "401" in execute(page, "read_users")

    page.locator(".auth-wrapper .authorize").first.click()
    page.locator(".auth-container input").fill(TOKEN)
    page.locator(".auth-btn-wrapper .authorize").click()
    page.locator(".auth-btn-wrapper .btn-done").click()
    assert "201" in execute(page, "create_user")
    again = page.locator("#operations-default-read_users")
    again.get_by_role("button", name="Execute").click()
    expect(again.locator(".live-responses-table tbody")).to_contain_text("Ada Lovelace")
    assert elsewhere == []
    assert problems == []
