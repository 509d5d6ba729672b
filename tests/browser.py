"""A real browser without a window, for tests of pages: Chromium, driven by playwright.

A test module that needs one has a fixture of its own, so that the browser starts once for the module:

    @pytest.fixture(scope="module")
    def browser() -> Iterator[Browser]:
        with headless() as browser:
            yield browser

    def test_something(browser: Browser, tmp_path: Path) -> None:
        with opened(browser, tmp_path / "page.html", width=360, dark=True) as tab:  # or "http://127.0.0.1:1234/..."
            tab.page.get_by_role("button", name="Dice").click()
            assert tab.page.locator("h1").inner_text() == "..."
            assert not tab.problems

`tab.page` is playwright's `Page` of its synchronous interface. `tab.problems` has what the browser complained of so
far: errors and warnings in the console, uncaught exceptions, requests that failed or were answered with an error.
`tab.requests` has the addresses that the page asked for, itself first. Tests are skipped where there is no playwright
(of the extra `dev`) or no browser: Debian's package `chromium`, or the program that SEGKIT_CHROMIUM names.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page
else:
    Browser = Page = object

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Software rendering, no sandbox (tests run as root in containers), and nothing that the browser wants of the network.
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--force-color-profile=srgb"),
)
SECONDS = 30.0


@dataclass
class Tab:
    """An open page, what the browser complained of, and what the page asked for."""

    page: Page
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def overflow_px(self) -> int:
        """By how much the page is wider than its window: more than 0 scrolls sideways."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


@contextlib.contextmanager
def headless() -> Iterator[Browser]:
    """Start the browser, or skip the test that asks for it."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: install the extra `dev`")
    program = os.environ.get("SEGKIT_CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("no Chromium: install the package `chromium`, or set SEGKIT_CHROMIUM to the program")
    with sync_api.sync_playwright() as playwright:
        # In a folder of its own that goes with it.
        browser = playwright.chromium.launch(executable_path=program, headless=True, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def opened(
    browser: Browser,
    address: str | Path,
    *,
    width: int = 1280,
    height: int = 800,
    dark: bool = False,
    reduced_motion: bool = False,
    offline: bool = False,
) -> Iterator[Tab]:
    """Open a file or an address in a window of a size, in a fresh profile, and close it in the end."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce" if reduced_motion else "no-preference",
        offline=offline,
    )
    context.set_default_timeout(SECONDS * 1000)
    try:
        tab = Tab(context.new_page())
        page = tab.page
        page.on("request", lambda request: tab.requests.append(request.url))
        page.on("requestfailed", lambda request: tab.problems.append(f"failed: {request.url[:200]} {request.failure}"))
        page.on("pageerror", lambda error: tab.problems.append(f"uncaught: {error}"))
        page.on(
            "console",
            lambda said: (
                tab.problems.append(f"{said.type}: {said.text}") if said.type in {"error", "warning"} else None
            ),
        )
        page.on(
            "response",
            lambda answer: tab.problems.append(f"{answer.status}: {answer.url}") if answer.status >= 400 else None,
        )
        page.goto(address.resolve().as_uri() if isinstance(address, Path) else address)
        yield tab
    finally:
        context.close()
