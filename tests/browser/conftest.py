"""One Chromium and two fleets for all tests of this folder, and tabs that report what went wrong in them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from tests.browser.fake_provider import FakeProvider
from tests.browser.site import Site
from tests.browser.stage import KEY, PATIENCE_MS, choose_transport
from tests.fleet import Fleet
from tests.needs import require

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
]  # fmt: skip


@contextmanager
def chromium() -> Iterator[Browser]:
    """Its loop runs in this thread until the block ends: no `asyncio.run` meanwhile, so no fixture of the session."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    require(path, "Chromium on PATH")
    require(find_spec("playwright"), "playwright (requirements-dev.txt)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="package")
def one_provider(browser: Browser) -> Iterator[FakeProvider]:
    with FakeProvider() as started:
        yield started


@pytest.fixture
def provider(one_provider: FakeProvider) -> FakeProvider:
    """Of the models that are not scripted; a test says what they write."""
    one_provider.reset()
    return one_provider


@pytest.fixture(scope="package")
def fleet(one_provider: FakeProvider) -> Iterator[Fleet]:
    """One edge, to be broken and repaired; needs no key."""
    with Fleet(edges=1, workers=1, env=one_provider.env) as started:
        yield started


@pytest.fixture(scope="package")
def site(browser: Browser) -> Iterator[Site]:
    with Site() as started:
        yield started


@pytest.fixture(scope="package")
def locked(site: Site) -> Iterator[Fleet]:
    """One edge that wants a key, and lets the pages of `site` ask."""
    env = {"TOKENRELAY_API_KEYS": f"me:{KEY}", "TOKENRELAY_ALLOWED_ORIGINS": site.origin}
    with Fleet(edges=1, workers=1, env=env) as started:
        yield started


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A tab of its own, with nothing remembered."""
    with tab(browser) as opened:
        yield opened


@pytest.fixture
def pages(browser: Browser) -> Iterator[dict[str, Page]]:
    """A tab for each transport, as of one who chose it before opening the page."""
    with tab(browser) as one, tab(browser) as other:
        pair = {"sse": one, "websocket": other}
        for name, opened in pair.items():
            choose_transport(opened, name)
        yield pair


@contextmanager
def tab(browser: Browser) -> Iterator[Page]:
    """An error in the page's script is a failure, and so is whatever the Content-Security-Policy had to refuse."""
    context = browser.new_context()
    context.set_default_timeout(PATIENCE_MS)
    opened = context.new_page()
    faults: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text or "Content-Security-Policy" in message.text:
            faults.append(message.text)

    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", note)
    yield opened
    context.close()
    assert faults == []
