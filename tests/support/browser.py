"""A browser for the tests of pages: the system's Chromium, driven by Playwright's client."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

INSTALL = "apt-get install -y chromium && pip install playwright"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip
#: How long a page may take on a machine that does many things at once, in milliseconds.
PATIENCE = 60_000


def missing(what: str, install: str = INSTALL) -> None:
    """Skip, with the command that installs what is missing; in continuous integration that is a failure."""
    sentence = f"there is no {what}: {install}"
    if os.environ.get("CI"):
        pytest.fail(sentence)
    pytest.skip(sentence)


@contextmanager
def chromium() -> Iterator[Any]:
    """A running browser, ended with the block."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("Playwright")
    program = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if program is None:
        missing("Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """A page that is open, with everything it complained about and every request it made."""

    def __init__(self, browser: Any, file: Path, **settings: Any) -> None:
        self.page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}, **settings})
        self.page.set_default_timeout(PATIENCE)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.url = file.resolve().as_uri()
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.open()

    def open(self, fragment: str = "") -> None:
        """Load the page anew, at a place in it or with filters."""
        self.page.goto("about:blank")
        self.page.goto(self.url + fragment)
        self.page.wait_for_selector("html[data-ready=yes]")

    def drawn(self) -> None:
        """Bring the graph into view and wait until both sides are drawn."""
        self.page.locator(".graph").first.scroll_into_view_if_needed()
        self.page.wait_for_selector(".graph .pane[data-ready=yes] >> nth=1")

    def until(self, condition: str) -> None:
        """Wait for a condition. Playwright's own way of waiting is what the page's policy forbids: eval."""
        for _ in range(PATIENCE // 50):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(50)
        pytest.fail(f"waited in vain for {condition}")

    def check(self) -> None:
        """Nothing was complained about, and nothing was loaded but the file itself and the worker inside of it."""
        assert self.complaints == []
        loaded = {url.partition("#")[0] for url in self.requests if not url.startswith(("blob:", "about:"))}
        assert loaded == {self.url}
