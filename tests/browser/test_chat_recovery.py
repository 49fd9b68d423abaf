"""Whatever happens to the connection, the page shows byte for byte what the model wrote; over both transports."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

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
    wait_until_still,
)
from tests.fleet import Fleet
from tests.network import Proxy
from tests.wire import words

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

OFFLINE_MS = 5_000
LONG = 100_000
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


def stop_exact(page: Page, fleet: Fleet) -> str:
    """Stops an answer that would go on for long, whatever the machine's speed: exact as far as it was written."""
    page.get_by_role("button", name="Stop", exact=True).click()
    shown = wait_for_the_end(page)
    kept = page.evaluate("JSON.parse(sessionStorage.getItem('tokenrelay.turns')).at(-1).text")
    assert kept == shown == wait_for_state(fleet, stream_id(page), "cancelled")["text"]
    assert words(LONG).startswith(shown)
    return shown


def ask_both(pages: dict[str, Page], fleet: Fleet, model: str) -> dict[str, str]:
    """What the answers begin with."""
    for page in pages.values():
        open_page(page, fleet, model)
    for page in pages.values():
        ask(page)
    return {transport: wait_for_some(page) for transport, page in pages.items()}


def test_from_the_first_token_on_what_is_shown_is_the_beginning_of_the_answer(
    pages: dict[str, Page], fleet: Fleet
) -> None:
    hosts: set[str] = set()
    for page in pages.values():
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    parts = ask_both(pages, fleet, f"scripted?tokens={LONG}&interval_ms=15")
    for transport, page in pages.items():
        assert NAMES[transport] in status(page)
        for _ in range(3):
            assert words(LONG).startswith(parts[transport])
            parts[transport] = wait_for_some(page, parts[transport])
    for page in pages.values():
        stop_exact(page, fleet)
        assert status(page) == "Ready"
        assert page.locator("[role=log] [role=article]").count() == 1
    assert hosts <= {urlsplit(fleet.urls[0]).netloc, ""}


def test_an_answer_is_exact_to_its_end(pages: dict[str, Page], fleet: Fleet) -> None:
    ask_both(pages, fleet, "scripted?tokens=150&interval_ms=5")
    for page in pages.values():
        assert_exact(page, fleet, 150)


def test_a_stop_leaves_exactly_what_had_been_written(pages: dict[str, Page], fleet: Fleet) -> None:
    ask_both(pages, fleet, "scripted?tokens=100000&interval_ms=10")
    pages["sse"].get_by_role("button", name="Stop", exact=True).click()
    pages["websocket"].keyboard.press("Escape")  # as the button does
    for page in pages.values():
        shown = wait_for_the_end(page)
        assert wait_for_state(fleet, stream_id(page), "cancelled")["text"] == shown
        assert words(100_000).startswith(shown)
        assert "stopped" in (page.locator(".note").last.text_content() or "")


def test_a_reload_in_mid_answer(pages: dict[str, Page], fleet: Fleet) -> None:
    before = generations(fleet)
    parts = ask_both(pages, fleet, f"scripted?tokens={LONG}&interval_ms=15&tool_after=3")
    for page in pages.values():
        page.reload()
    for transport, page in pages.items():
        assert wait_for_some(page, parts[transport]).startswith(parts[transport])
        assert page.get_by_role("button", name="Stop", exact=True).is_visible()
    for page in pages.values():
        shown = stop_exact(page, fleet)
        assert page.locator("details").count() == 1
        page.reload()
        assert text(page) == shown
    assert len(generations(fleet) - before) == len(pages)


def test_an_edge_killed_and_restarted_in_mid_answer(pages: dict[str, Page], fleet: Fleet) -> None:
    parts = ask_both(pages, fleet, f"scripted?tokens={LONG}&interval_ms=20&tool_after=3")
    fleet.kill_edge(0)
    for page in pages.values():
        wait_for_words(page, "Connection lost. Reconnecting")
    fleet.restart_edge(0)
    for transport, page in pages.items():
        wait_for_words(page, "Writing over")
        wait_for_some(page, parts[transport])
        stop_exact(page, fleet)
        assert "reconnected once, nothing lost" in (page.locator(".foot .note").text_content() or "")


def test_offline_for_five_seconds(pages: dict[str, Page], fleet: Fleet) -> None:
    """A browser that is set offline cuts HTTP and not a socket that is open: from that the network itself takes every
    word, and brings it later. Where the connections never come back is test_javascript_client.py."""
    with Proxy(fleet.ports[0]) as network:
        for page in pages.values():
            page.goto(f"{network.url}/?model={quote(f'scripted?tokens={LONG}&interval_ms=20', safe='')}")
            ask(page)
        for page in pages.values():
            wait_for_some(page)
        network.silence()
        for page in pages.values():
            page.context.set_offline(True)
        for page in pages.values():
            wait_for_words(page, "Offline")
        before = {transport: wait_until_still(page) for transport, page in pages.items()}
        pages["sse"].wait_for_timeout(OFFLINE_MS)
        assert {transport: text(page) for transport, page in pages.items()} == before
        network.flow()
        for page in pages.values():
            page.context.set_offline(False)
        for transport, page in pages.items():
            wait_for_some(page, before[transport])
            stop_exact(page, fleet)
        assert "reconnected once, nothing lost" in (pages["sse"].locator(".foot .note").text_content() or "")


def test_a_connection_dropped_by_its_reader_comes_back(pages: dict[str, Page], fleet: Fleet) -> None:
    wires = {transport: wires_of(page) for transport, page in pages.items()}
    parts = ask_both(pages, fleet, f"scripted?tokens={LONG}&interval_ms=20")
    for transport, page in pages.items():
        page.get_by_role("button", name="Drop my connection").click()
        wait_for_words(page, "Connection lost. Reconnecting")
        wait_for_words(page, "Reconnected, nothing lost")
        parts[transport] = wait_for_some(page, parts[transport])
        assert len(wires[transport]) > 1
        page.evaluate("() => document.querySelector('#drop').click()")
        wait_for_words(page, "Connection lost. Reconnecting")
        wait_for_words(page, "Reconnected, nothing lost")
        wait_for_some(page, parts[transport])
        stop_exact(page, fleet)
        assert "reconnected 2 times, nothing lost" in (page.locator(".foot .note").text_content() or "")
        assert page.get_by_role("button", name="Drop my connection").is_disabled()


def test_a_switch_of_transport_in_mid_answer(pages: dict[str, Page], fleet: Fleet) -> None:
    before = generations(fleet)
    wires = {transport: wires_of(page) for transport, page in pages.items()}
    parts = ask_both(pages, fleet, f"scripted?tokens={LONG}&interval_ms=15")
    for transport, page in pages.items():
        assert set(wires[transport]) == {transport}
        page.get_by_role("radio", name=OTHER[transport]).check()
        wait_for_some(page, parts[transport])
        wait_for_words(page, f"Writing over {OTHER[transport]} now")
        assert set(wires[transport]) == {"sse", "websocket"}
    for page in pages.values():
        stop_exact(page, fleet)
        assert "reconnected" not in (page.locator(".foot .note").text_content() or "")
    assert len(generations(fleet) - before) == len(pages)


def test_a_second_tab_by_the_link_shows_the_same_and_a_stop_there_stops_both(
    pages: dict[str, Page], browser: Browser, fleet: Fleet
) -> None:
    parts = ask_both(pages, fleet, "scripted?tokens=100000&interval_ms=15")
    elsewhere = browser.new_context()
    try:
        for transport, page in pages.items():
            second = elsewhere.new_page()
            second.goto(f"{fleet.urls[0]}/?stream={stream_id(page)}")
            assert wait_for_some(second, parts[transport]).startswith(parts[transport])
            second.get_by_role("button", name="Stop", exact=True).click()
            written = wait_for_state(fleet, stream_id(page), "cancelled")["text"]
            assert words(100_000).startswith(written)
            assert wait_for_the_end(page) == wait_for_the_end(second) == written
            second.close()
    finally:
        elsewhere.close()
