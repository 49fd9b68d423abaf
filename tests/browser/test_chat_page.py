"""The chat page in a real browser against real processes: what a person sees is exactly what the model wrote."""

from __future__ import annotations

import http.client
import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.stage import (
    KEY,
    ask,
    open_page,
    status,
    stream_id,
    text,
    wait_for_some,
    wait_for_state,
    wait_for_the_end,
)
from tests.fleet import Fleet
from tests.wire import words
from tokenrelay.protocol.wire.event_json import accepted_data, to_json
from tokenrelay.protocol.wire.sse import encode_frame

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request, Route

ID = "5f0c6f9e2d5b4c0f8a4be1d1a9d7c3e2"


# -- an answer -------------------------------------------------------------------------------------------------------


def test_something_moves_before_the_first_token(page: Page, fleet: Fleet) -> None:
    open_page(page, fleet, "scripted?tokens=3&first_ms=60000")
    ask(page)
    assert page.get_by_role("button", name="Stop", exact=True).is_visible()
    assert text(page) == ""
    shown = page.evaluate("getComputedStyle(document.querySelector('article'), '::after').content")
    assert "●" in shown
    page.get_by_role("button", name="Stop", exact=True).click()
    wait_for_the_end(page)


def test_a_tool_call_stands_in_the_log_and_not_in_the_answer(page: Page, fleet: Fleet) -> None:
    open_page(page, fleet, "scripted?tokens=20&interval_ms=5&tool_after=5")
    ask(page)
    assert wait_for_the_end(page) == words(20)
    card = page.get_by_role("log").locator("details")
    assert card.locator("summary").text_content() == "calculator: 6*7 → 42"
    assert page.locator("article details").count() == 0


def test_a_failed_answer_keeps_its_text_and_says_why(page: Page, fleet: Fleet) -> None:
    open_page(page, fleet, "scripted?tokens=50&interval_ms=5&fail_after=7")
    ask(page)
    assert wait_for_the_end(page) == words(7)
    assert page.locator(".note.bad").is_visible()
    assert page.get_by_role("button", name="Ask again").is_visible()


def test_the_next_question_carries_the_conversation(page: Page, fleet: Fleet) -> None:
    bodies: list[Any] = []

    def note(request: Request) -> None:
        if request.url.endswith("/api/chat"):
            bodies.append(request.post_data_json)

    page.on("request", note)
    open_page(page, fleet, "scripted?tokens=3&interval_ms=0", transport="sse")
    ask(page, "one")
    wait_for_the_end(page)
    ask(page, "two")
    page.wait_for_function("() => document.querySelectorAll('article').length === 2")
    assert wait_for_the_end(page) == words(3)
    assert bodies[1]["messages"] == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": words(3)},
        {"role": "user", "content": "two"},
    ]


def test_shift_enter_begins_a_line_and_enter_sends(page: Page, fleet: Fleet) -> None:
    open_page(page, fleet, "scripted?tokens=1")
    box = page.get_by_role("textbox")
    box.press_sequentially("one")
    page.keyboard.press("Shift+Enter")
    box.press_sequentially("two")
    assert box.input_value() == "one\ntwo"
    page.keyboard.press("Enter")
    wait_for_the_end(page)
    assert box.input_value() == ""
    assert page.locator(".asked").text_content() == "one\ntwo"


def _sse(*tokens: str) -> bytes:
    """A whole answer as an edge would send it."""
    head = encode_frame(to_json(accepted_data(ID, "m", 0)))
    body = [encode_frame(to_json({"token": t, "done": False}), n) for n, t in enumerate(tokens, 1)]
    end = {"token": "", "done": True, "resolved_model": "m", "output_tokens": 1, "response_time": 1.0,
           "finish_reason": "stop"}  # fmt: skip
    return b"".join([head, *body, encode_frame(to_json(end), len(tokens) + 1)])


def test_what_a_model_writes_is_text_and_never_markup(page: Page, fleet: Fleet) -> None:
    tokens = ["<img src=x onerror='document.title=1'>", "<b>", "&amp;\r\n\t", "é😀", "\u2028\0 "]

    def answer(route: Route) -> None:
        route.fulfill(status=200, headers={"Content-Type": "text/event-stream", "X-Stream-Id": ID}, body=_sse(*tokens))

    page.route("**/api/chat", answer)
    open_page(page, fleet, "scripted", transport="sse")
    ask(page)
    assert wait_for_the_end(page) == "".join(tokens)
    assert page.locator("article :not(p)").count() == 0
    page.reload()
    assert wait_for_the_end(page) == "".join(tokens)
    assert page.title() == "Tokenrelay"


def _frames(*events: dict[str, Any]) -> bytes:
    return b"".join(encode_frame(to_json({"token": "", "done": False, **e}), n) for n, e in enumerate(events, 1))


THOUGHTS = (
    {"status": "thinking", "timestamp": "2026-12-01T10:00:00.000Z"},
    {"thinking": "Let me ", "timestamp": "2026-12-01T10:00:01.000Z"},
    {"thinking": "see <b>.", "timestamp": "2026-12-01T10:00:03.000Z"},
)
INPUT = (
    {
        "tool_call_id": "c1",
        "tool_input_delta": '{"a',
        "tool_input_name": "sum",
        "timestamp": "2026-12-01T10:00:04.000Z",
    },
    {"tool_call_id": "c1", "tool_input_delta": '": 1', "timestamp": "2026-12-01T10:00:05.000Z"},
)
REST = (
    {"tool_call_id": "c1", "tool_name": "sum", "tool_input": {"a": 1}},
    {"tool_call_id": "c1", "tool_name": "sum", "tool_input": {"a": 1}, "tool_result": "1"},
    {"token": "Yes."},
    {"done": True, "resolved_model": "m", "output_tokens": 1, "response_time": 1.0, "finish_reason": "stop"},
)


def _play(page: Page, fleet: Fleet, *events: dict[str, Any]) -> list[Any]:
    """The page with an answer of these events, after which its connections are refused. Gives what it was asked."""
    bodies: list[Any] = []
    headers = {"Content-Type": "text/event-stream", "X-Stream-Id": ID}

    def answer(route: Route) -> None:
        bodies.append(route.request.post_data_json)
        route.fulfill(status=200, headers=headers, body=_frames(*events))

    page.route("**/api/chat", answer)
    page.route("**/api/streams/**", lambda route: route.abort())
    open_page(page, fleet, "scripted", transport="sse")
    ask(page)
    return bodies


def test_thinking_stands_open_while_it_lasts(page: Page, fleet: Fleet) -> None:
    bodies = _play(page, fleet, *THOUGHTS)
    block = page.locator("details.thoughts[open]")
    block.get_by_text("Let me see <b>.").wait_for()
    assert block.locator("summary").text_content() == "Thinking…"
    assert bodies[0]["show"] == ["thinking", "tool_input"]
    assert text(page) == ""


def test_thinking_is_folded_and_arguments_fill_in_after_it(page: Page, fleet: Fleet) -> None:
    _play(page, fleet, *THOUGHTS, *INPUT)
    card = page.locator("details.tool.running:not(.thoughts)")
    card.wait_for()
    assert card.locator("summary").text_content() == 'sum: {"a": 1…'
    block = page.locator("details.thoughts")
    assert block.get_attribute("open") is None
    assert block.locator("summary").text_content() == "Thought for 4 s"


def test_what_the_model_did_is_there_once_the_answer_is_whole(page: Page, fleet: Fleet) -> None:
    lost = {**INPUT[0], "tool_call_id": "lost"}  # of an attempt that failed
    _play(page, fleet, *THOUGHTS, lost, *INPUT, *REST)
    assert wait_for_the_end(page) == "Yes."
    for _ in range(2):
        summaries = page.get_by_role("log").locator("details summary").all_text_contents()
        assert summaries == ["Thought for 4 s", "sum: 1 → 1"]
        page.reload()  # kept with the turn


# -- stopping --------------------------------------------------------------------------------------------------------


def test_stop_before_the_first_token(page: Page, fleet: Fleet) -> None:
    open_page(page, fleet, "scripted?tokens=5&first_ms=60000")
    ask(page)
    page.get_by_role("button", name="Stop", exact=True).click()
    assert wait_for_the_end(page) == ""
    wait_for_state(fleet, stream_id(page), "cancelled")


def test_stop_before_the_server_has_answered_holds(page: Page, fleet: Fleet) -> None:
    held: list[Route] = []
    page.route("**/api/chat", lambda route: held.append(route))
    open_page(page, fleet, "scripted?tokens=100000&interval_ms=20", transport="sse")
    with page.expect_request("**/api/chat"):
        ask(page)
    page.get_by_role("button", name="Stop", exact=True).click()
    assert status(page) == "Stopping…"
    held[0].continue_()
    wait_for_the_end(page)
    wait_for_state(fleet, stream_id(page), "cancelled")


# -- coming back -----------------------------------------------------------------------------------------------------


def test_a_reload_before_the_server_has_answered_asks_with_the_same_key(page: Page, fleet: Fleet) -> None:
    seen: list[Request] = []

    def hold_the_first(route: Route) -> None:
        seen.append(route.request)
        if len(seen) > 1:
            route.continue_()

    page.route("**/api/chat", hold_the_first)
    open_page(page, fleet, "scripted?tokens=5", transport="sse")
    with page.expect_request("**/api/chat"):
        ask(page)
    page.reload()
    assert wait_for_some(page)
    assert wait_for_the_end(page) == words(5)
    first, second = (request.headers["idempotency-key"] for request in seen)
    assert first == second
    assert seen[0].post_data == seen[1].post_data


def test_a_connection_that_went_silent_is_given_up(page: Page, fleet: Fleet) -> None:
    page.clock.install()
    open_page(page, fleet, "scripted?tokens=120&interval_ms=20", transport="sse")
    ask(page)
    wait_for_some(page)
    name = stream_id(page)
    fleet.edges[0].send_signal(signal.SIGSTOP)
    try:
        with page.expect_request(f"**/api/streams/{name}"):
            page.clock.fast_forward(46_000)  # the watchdog
            page.clock.fast_forward(20_000)  # the pause before the next try
    finally:
        fleet.edges[0].send_signal(signal.SIGCONT)
    assert wait_for_the_end(page) == words(120)


@pytest.mark.parametrize(
    ("code", "name", "said"),
    [(404, "NOT_FOUND", "not here"), (410, "STREAM_EXPIRED", "expired"), (204, "", "nothing more")],
)
def test_an_answer_that_is_gone_is_said_in_words(page: Page, fleet: Fleet, code: int, name: str, said: str) -> None:
    problem = {"json": {"error": "gone", "error_code": name}} if name else {}
    page.route(f"**/api/streams/{ID}", lambda route: route.fulfill(status=code, **problem))
    open_page(page, fleet, "scripted", f"&stream={ID}", transport="sse")
    wait_for_the_end(page)
    assert said in (page.locator(".note").text_content() or "")


# -- models and keys -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["scripted?tokens=7&interval_ms=1", "scripted", "no such/model%"])
def test_the_address_chooses_the_model(page: Page, fleet: Fleet, model: str) -> None:
    with page.expect_response("**/api/models"):
        open_page(page, fleet, model)
    page.wait_for_function("() => document.querySelector('select').options.length > 3")
    assert page.get_by_label("Model").input_value() == model


def test_a_model_that_was_not_escaped_is_understood(page: Page, fleet: Fleet) -> None:
    page.goto(f"{fleet.urls[0]}/?model=scripted?tokens=7&interval_ms=1")
    assert page.get_by_label("Model").input_value() == "scripted?tokens=7&interval_ms=1"
    ask(page)
    assert wait_for_the_end(page) == words(7)


def test_a_model_that_cannot_answer_is_not_to_be_chosen(page: Page, fleet: Fleet) -> None:
    page.goto(fleet.urls[0])
    page.wait_for_function("() => document.querySelector('select').options.length > 3")
    options = page.evaluate("[...document.querySelector('select').options].map((o) => [o.value, o.disabled, o.text])")
    by_name = {name: (disabled, label) for name, disabled, label in options}
    assert by_name["scripted"] == (False, "scripted")
    disabled, label = by_name["local"]
    assert disabled
    assert label.startswith("local (")


def test_a_key_is_asked_for_and_a_wrong_one_again(page: Page, browser: Browser, locked: Fleet) -> None:
    open_page(page, locked, "scripted?tokens=40&interval_ms=20")
    page.get_by_label("API key").fill("wrong")
    page.keyboard.press("Enter")
    page.get_by_text("This key is not known here").wait_for()
    page.get_by_label("API key").fill(KEY)
    page.keyboard.press("Enter")
    page.get_by_role("dialog").wait_for(state="hidden")
    ask(page)
    wait_for_some(page)
    page.reload()  # the session remembers it
    wait_for_some(page)
    assert wait_for_the_end(page) == words(40)
    assert page.evaluate("JSON.stringify(localStorage) + document.cookie") == "{}"
    elsewhere = browser.new_context()
    try:
        stranger = elsewhere.new_page()
        stranger.goto(page.url)
        stranger.get_by_label("API key").wait_for()
    finally:
        elsewhere.close()


def test_without_a_key_the_page_says_what_is_missing(page: Page, locked: Fleet) -> None:
    open_page(page, locked, "scripted")
    page.get_by_role("button", name="Not now").click()
    ask(page)
    page.get_by_role("button", name="Not now").click()
    assert wait_for_the_end(page) == ""
    assert page.locator(".note.bad").text_content() == "This server wants a key."


# -- the files -------------------------------------------------------------------------------------------------------


def get(fleet: Fleet, path: str, headers: dict[str, str] | None = None) -> tuple[int, Mapping[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.ports[0], timeout=5)
    try:
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        answer.read()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["/", "/docs", "/static/app.js", "/static/page.css", "/static/client/client.js"])
def test_a_file_has_a_policy_and_is_sent_once(fleet: Fleet, path: str) -> None:
    status_code, headers = get(fleet, path)
    assert status_code == 200
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert get(fleet, path, {"If-None-Match": headers["etag"]})[0] == 304


@pytest.mark.parametrize("path", ["", "settings.py", "../settings.py", "%2e%2e/settings.py", "client/package.json"])
def test_nothing_but_the_pages_files_is_given_away(fleet: Fleet, path: str) -> None:
    assert get(fleet, f"/static/{path}")[0] == 404


# -- the page of the interface ---------------------------------------------------------------------------------------


def test_the_interface_is_readable_as_a_page(page: Page, fleet: Fleet) -> None:
    page.set_viewport_size({"width": 360, "height": 700})
    page.goto(f"{fleet.urls[0]}/docs")
    page.locator("#startChat").wait_for()
    assert page.locator("main section").count() > 30
    assert page.locator("#errors").get_by_text("WORKER_LOST").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
