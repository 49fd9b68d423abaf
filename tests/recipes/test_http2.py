"""Chromium, nginx, HTTP/2: more streams at once than six connections would carry; the chat page as strangers get it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.browser import stage
from tests.browser.conftest import browser
from tests.fleet import Fleet
from tests.recipes.book import recipe
from tests.recipes.nginx import Nginx
from tests.recipes.run import KEY, cancel, newest, snapshot
from tests.wire import words

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["browser"]  # a fixture
STREAMS = 12
"""Twice as many as a browser opens connections."""


@pytest.fixture
def tab(browser: Browser, nginx: Nginx) -> Iterator[Page]:
    """The chat page as nginx serves it over TLS; an error in its script fails the test."""
    context = browser.new_context(ignore_https_errors=True)
    context.set_default_timeout(stage.PATIENCE_MS)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield page
    context.close()
    assert faults == []


def test_twelve_streams_run_at_once(tab: Page, nginx: Nginx, fleet: Fleet) -> None:
    tab.goto(nginx.secure_url)
    code = recipe("Behind HTTP/2", "js")
    answers = tab.evaluate(
        f"""async (key) => {{
          {code}
          window.answers = answers;
          return answers.map(({{ word, id }}) => ({{ word, id }}));
        }}""",
        KEY,
    )
    ids = [answer["id"] for answer in answers]
    assert len(set(ids)) == STREAMS
    assert [answer["word"] for answer in answers] == ["w0 "] * STREAMS
    # All of them had their first word, and not one has ended: nobody waited for another's connection.
    assert [snapshot(fleet, name)["state"] for name in ids] == ["running"] * STREAMS
    for name in ids:
        cancel(fleet, name)
    tab.evaluate("Promise.all(answers.map(async ({ reader }) => { while (!(await reader.read()).done); }))")
    protocols = tab.evaluate(
        """performance.getEntriesByType("resource")
          .filter(({ name }) => name.endsWith("/api/chat")).map(({ nextHopProtocol }) => nextHopProtocol)"""
    )
    assert protocols == ["h2"] * STREAMS


@pytest.mark.parametrize("transport", ["sse", "websocket"])
def test_the_chat_page_works_behind_nginx(tab: Page, nginx: Nginx, fleet: Fleet, transport: str) -> None:
    stage.choose_transport(tab, transport)
    sockets: list[str] = []
    tab.on("websocket", lambda socket: sockets.append(socket.url.partition("?")[0]))
    tab.goto(f"{nginx.secure_url}/?model={quote('scripted?tokens=40&interval_ms=10', safe='')}")
    tab.get_by_label("API key").fill(KEY)
    tab.keyboard.press("Enter")
    stage.ask(tab)
    tab.get_by_role("article").last.get_by_text("w39").wait_for()
    assert stage.wait_for_the_end(tab).strip() == words(40).strip()
    assert snapshot(fleet, newest(fleet))["text"] == words(40)
    secure = nginx.secure_url.replace("https", "wss")
    assert sockets == ([f"{secure}/api/ws"] if transport == "websocket" else [])
