"""A real Chromium for tests, and what goes wrong in its pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Page, expect, sync_playwright

PATIENCE_MS = 240_000
expect.set_options(timeout=PATIENCE_MS)
PHONE = {"width": 360, "height": 740}
DESK = {"width": 1280, "height": 900}


@dataclass
class Tab:
    """A page, and all errors that its console or its scripts have shown."""

    page: Page
    errors: list[str] = field(default_factory=list)

    def text(self, selector: str) -> str:
        """The text of the page, as a person reads it."""
        return self.page.locator(selector).inner_text()

    def overflow(self) -> int:
        """By how many pixels the page is wider than its window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


@contextmanager
def tab(scheme: str = "light") -> Iterator[Tab]:
    """A tab at desk size, in a browser of its own."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox"], timeout=PATIENCE_MS
        )
        page = browser.new_page(viewport=DESK, color_scheme=scheme)  # type: ignore[arg-type]
        page.set_default_timeout(PATIENCE_MS)
        opened = Tab(page)
        page.on("console", lambda line: opened.errors.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: opened.errors.append(str(error)))
        try:
            yield opened
        finally:
            browser.close()
