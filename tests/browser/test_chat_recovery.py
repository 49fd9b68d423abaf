"""Whatever happens to the connection, the page shows byte for byte what the model wrote; over both transports."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser.stage import (
    ask,
    generations,
    open_page,
    snapshot,
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
    from playwright.sync_api import Browser, Page

OFFLINE_MS = 3_000
both = pytest.mark.parametrize("transport", ["sse", "websocket"])
OTHER = {"sse": "WebSocket", "websocket": "SSE"}
NAMES = {"sse": "SSE", "websocket": "WebSocket"}


def wires_of(page: Page) -> list[str]:
    """Fills with the connections that carry answers, in the order in which they were opened."""
    seen: list[str] = []
    page.on("websocket", lambda _: seen.append("websocket"))

    def note(url: str, asked_for: str) -> None:
        if "/api/chat" in url or ("/api/streams/" in url and "event-stream" in asked_for):
            seen.append("sse")

    page.on("request", lambda request: note(request.url, request.headers.get("accept", "")))
    return seen


def assert_exact(page: Page, fleet: Fleet, count: int) -> None:
    """On the page, in what is kept for a reload, and at the server."""
    assert wait_for_the_end(page) == words(count)
    kept = page.evaluate("JSON.parse(sessionStorage.getItem('tokenrelay.turns')).at(-1).text")
    assert kept == words(count) == snapshot(fleet, stream_id(page))["text"]


@both
def test_from_the_first_token_on_what_is_shown_is_the_beginning_of_the_answer(
    page: Page, fleet: Fleet, transport: str
) -> None:
    open_page(page, fleet, "scripted?tokens=80&interval_ms=15", transport=transport)
    ask(page)
    part = ""
    for _ in range(5):
        assert words(80).startswith(part := wait_for_some(page, part))
    assert NAMES[transport] in status(page)
    assert_exact(page, fleet, 80)


@both
def test_a_stop_leaves_exactly_what_had_been_written(page: Page, fleet: Fleet, transport: str) -> None:
    open_page(page, fleet, "scripted?tokens=100000&interval_ms=10", transport=transport)
    ask(page)
    wait_for_some(page)
    page.keyboard.press("Escape")  # as the button does
    shown = wait_for_the_end(page)
    assert wait_for_state(fleet, stream_id(page), "cancelled")["text"] == shown
    assert "stopped" in (page.locator(".note").last.text_content() or "")


@both
def test_a_reload_in_mid_answer(page: Page, fleet: Fleet, transport: str) -> None:
    before = generations(fleet)
    open_page(page, fleet, "scripted?tokens=150&interval_ms=15&tool_after=3", transport=transport)
    ask(page)
    part = wait_for_some(page)
    page.reload()
    assert wait_for_some(page, part).startswith(part)
    assert_exact(page, fleet, 150)
    assert generations(fleet) == before + 1


@both
def test_an_edge_killed_and_restarted_in_mid_answer(page: Page, fleet: Fleet, transport: str) -> None:
    open_page(page, fleet, "scripted?tokens=200&interval_ms=20", transport=transport)
    ask(page)
    wait_for_some(page)
    fleet.kill_edge(0)
    wait_for_words(page, "Connection lost. Reconnecting")
    fleet.restart_edge(0)
    assert_exact(page, fleet, 200)
    assert "reconnected once, nothing lost" in (page.locator(".foot .note").text_content() or "")


def test_offline_for_some_seconds(page: Page, fleet: Fleet) -> None:
    """A browser that is set offline cuts HTTP, not a WebSocket that is open; what then ends is the connection's other
    side, as it does when a network goes away."""
    open_page(page, fleet, "scripted?tokens=300&interval_ms=20", transport="sse")
    ask(page)
    wait_for_some(page)
    page.context.set_offline(True)
    wait_for_words(page, "Offline")
    page.get_by_role("button", name="Drop my connection").click()
    before = text(page)
    page.wait_for_timeout(OFFLINE_MS)
    assert text(page) == before
    page.context.set_offline(False)
    assert_exact(page, fleet, 300)
    assert "reconnected once, nothing lost" in (page.locator(".foot .note").text_content() or "")


@both
def test_a_connection_dropped_by_its_reader_comes_back(page: Page, fleet: Fleet, transport: str) -> None:
    open_page(page, fleet, "scripted?tokens=250&interval_ms=15", transport=transport)
    drop = page.get_by_role("button", name="Drop my connection")
    assert drop.is_disabled()
    wires = wires_of(page)
    ask(page)
    part = wait_for_some(page)
    drop.click()
    wait_for_words(page, "Connection lost. Reconnecting")
    wait_for_words(page, "Reconnected, nothing lost")
    wait_for_some(page, part)
    assert len(wires) > 1
    page.evaluate("() => document.querySelector('#drop').click()")
    assert_exact(page, fleet, 250)
    assert "reconnected 2 times, nothing lost" in (page.locator(".foot .note").text_content() or "")


@both
def test_a_switch_of_transport_in_mid_answer(page: Page, fleet: Fleet, transport: str) -> None:
    before = generations(fleet)
    open_page(page, fleet, "scripted?tokens=200&interval_ms=15", transport=transport)
    wires = wires_of(page)
    ask(page)
    part = wait_for_some(page)
    assert set(wires) == {transport}
    page.get_by_role("radio", name=OTHER[transport]).check()
    wait_for_some(page, part)
    wait_for_words(page, f"Writing over {OTHER[transport]} now")
    assert set(wires) == {"sse", "websocket"}
    assert_exact(page, fleet, 200)
    assert generations(fleet) == before + 1
    assert "reconnected" not in (page.locator(".foot .note").text_content() or "")


@both
def test_a_second_tab_by_the_link(page: Page, browser: Browser, fleet: Fleet, transport: str) -> None:
    open_page(page, fleet, "scripted?tokens=150&interval_ms=15", transport=transport)
    ask(page)
    wait_for_some(page)
    elsewhere = browser.new_context()
    try:
        second = elsewhere.new_page()
        second.goto(f"{fleet.urls[0]}/?stream={stream_id(page)}")
        wait_for_some(second)
        second.get_by_role("button", name="Stop", exact=True).wait_for()
        assert_exact(second, fleet, 150)
        assert_exact(page, fleet, 150)
    finally:
        elsewhere.close()


def test_a_stop_in_the_second_tab_stops_the_first(page: Page, browser: Browser, fleet: Fleet) -> None:
    open_page(page, fleet, "scripted?tokens=100000&interval_ms=15")
    ask(page)
    wait_for_some(page)
    elsewhere = browser.new_context()
    try:
        second = elsewhere.new_page()
        second.goto(page.url)
        wait_for_some(second)
        second.get_by_role("button", name="Stop", exact=True).click()
        assert wait_for_the_end(page) == wait_for_the_end(second)
    finally:
        elsewhere.close()
