"""/docs, opened in a real browser that reaches nothing but the service."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from browser import execute
from helpers import TOKEN
from service import StartService


@pytest.mark.slow
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
    expect(page.locator("h1.title")).to_contain_text("Users")
    assert execute(page, "read_users").split()[0] == "401"

    page.locator(".auth-wrapper .authorize").first.click()
    page.locator(".auth-container input").fill(TOKEN)
    page.locator(".auth-btn-wrapper .authorize").click()
    page.locator(".auth-btn-wrapper .btn-done").click()
    assert execute(page, "create_user").split()[0] == "201"
    again = page.locator("#operations-users-read_users")
    again.get_by_role("button", name="Execute").click()
    expect(again.locator(".live-responses-table tbody")).to_contain_text("Ada Lovelace")

    assert elsewhere == []
    assert problems == []


@pytest.mark.slow
def test_docs_cuts_off_no_line_of_code_on_a_phone(
    page: Page, start: StartService, tmp_path: Path
) -> None:
    service = start(f"sqlite:///{tmp_path}/users.db")
    service.wait().close()
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(f"{service.url}/docs")

    assert "200" in execute(page, "read_users")

    boxes = page.locator(".swagger-ui pre")
    assert boxes.count() > 3
    assert boxes.evaluate_all("all => all.filter(one => one.scrollWidth > one.clientWidth)") == []
