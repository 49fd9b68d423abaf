"""The page where its surroundings are against it: a server that is gone, a prefix, storage that is forbidden, keys that
come in another order. Nobody is stuck."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.browser.stage import (
    ask,
    open_page,
    status,
    stream_id,
    text,
    wait_for_some,
    wait_for_state,
    wait_for_the_end,
    wait_for_words,
)
from tests.fleet import Fleet
from tests.wire import words

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

LONG = "scripted?tokens=100000&interval_ms=20"


@pytest.mark.parametrize("transport", ["sse", "websocket"])
def test_with_the_server_gone_nobody_is_stuck(page: Page, fleet: Fleet, transport: str) -> None:
    open_page(page, fleet, LONG, transport=transport)
    ask(page)
    wait_for_some(page)
    name = stream_id(page)
    fleet.kill_edge(0)
    try:
        wait_for_words(page, "Connection lost")
        page.wait_for_function("() => /^Try [0-9]+ in [0-9]+ s$/.test(document.querySelector('#next').textContent)")
        assert page.get_by_role("button", name="Retry now").is_visible()
        assert page.get_by_role("button", name="New chat").is_enabled()
        page.get_by_role("button", name="Stop", exact=True).click()
        page.get_by_role("button", name="Stop", exact=True).wait_for(state="hidden", timeout=1_000)
        assert "cannot be reached" in (page.locator(".note").last.text_content() or "")
        assert status(page) == "Ready"
    finally:
        fleet.restart_edge(0)
    wait_for_state(fleet, name, "cancelled")  # the cancel outlived the page


def test_retry_now_waits_for_nothing_and_new_chat_always_works(page: Page, fleet: Fleet) -> None:
    open_page(page, fleet, LONG, transport="sse")
    ask(page)
    shown = wait_for_some(page)
    name = stream_id(page)
    fleet.kill_edge(0)
    wait_for_words(page, "Connection lost")
    fleet.restart_edge(0)
    page.evaluate("document.querySelector('#retry').click()")  # at once: by itself it may come back any moment
    wait_for_words(page, "nothing lost")
    wait_for_some(page, shown)
    page.get_by_role("button", name="New chat").click()
    assert page.get_by_role("article").count() == 0
    assert page.get_by_role("button", name="Send").is_visible()
    page.evaluate(f"fetch('/api/streams/{name}', {{ method: 'DELETE' }})")
    wait_for_state(fleet, name, "cancelled")


def test_the_page_works_behind_a_prefix(page: Page, fleet: Fleet) -> None:
    missed: list[str] = []
    page.on("response", lambda response: missed.append(response.url) if response.status == 404 else None)

    def unprefixed(route: Route) -> None:
        route.continue_(url=route.request.url.replace("/relay/", "/", 1))

    page.route("**/relay/**", unprefixed)
    page.route("**/api/**", lambda route: route.fallback() if "/relay/" in route.request.url else route.abort())
    page.add_init_script("try { sessionStorage.setItem('tokenrelay.transport', 'sse'); } catch { /* not the page */ }")
    page.goto(f"{fleet.urls[0]}/relay/?model={quote('scripted?tokens=30&interval_ms=1', safe='')}")
    ask(page)
    assert wait_for_the_end(page) == words(30)
    assert "/relay/?" in page.url
    page.reload()
    assert text(page) == words(30)
    page.goto(f"{fleet.urls[0]}/relay/docs")
    page.get_by_text("/api/chat").first.wait_for()
    assert missed == []


def test_the_page_works_where_storage_is_forbidden(page: Page, locked: Fleet) -> None:
    page.add_init_script(
        "for (const name of ['sessionStorage', 'localStorage'])"
        " Object.defineProperty(window, name, { get() { throw new DOMException('no', 'SecurityError'); } });"
    )
    page.goto(f"{locked.urls[0]}/?model={quote('scripted?tokens=30&interval_ms=1', safe='')}")
    page.get_by_label("API key").fill("sesame")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('select').options.length > 3")
    ask(page)
    assert wait_for_the_end(page) == words(30)


@pytest.mark.parametrize(("facts", "sends"), [({"keyCode": 229}, False), ({"isComposing": True}, False), ({}, True)])
def test_enter_that_ends_a_composition_sends_nothing(
    page: Page, fleet: Fleet, facts: dict[str, Any], sends: bool
) -> None:
    """Safari tells of the end of the composition first: the key then says 229 and `isComposing` false."""
    open_page(page, fleet, "scripted?tokens=3&interval_ms=1")
    page.get_by_role("textbox").fill("hello")
    page.evaluate(
        """(facts) => document.querySelector('#box').dispatchEvent(
             new KeyboardEvent('keydown', { key: 'Enter', bubbles: true, cancelable: true, ...facts }))""",
        facts,
    )
    page.wait_for_timeout(200)
    assert (page.get_by_role("article").count() == 1) is sends
