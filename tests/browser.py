"""Chromium, and what a person does in it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def open_page() -> Iterator[Page]:
    """Open an empty page in a real browser."""
    if CHROMIUM is None and not os.environ.get("CI"):
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield browser.new_page(viewport={"width": 1000, "height": 900})
        browser.close()


def execute(page: Page, operation: str) -> str:
    """Open an operation of /docs, try it out, and return what the page shows of the answer."""
    block = page.locator(f"#operations-users-{operation}")
    block.locator(".opblock-summary-control").click()
    block.get_by_role("button", name="Try it out").click()
    block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table tbody")
    expect(answer).to_be_visible()
    return answer.inner_text()
