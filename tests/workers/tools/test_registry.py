"""Tools: what the calculator knows and refuses, and that no tool kills a stream."""

from __future__ import annotations

import asyncio
import http.server
import importlib
import importlib.util
import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.needs import require
from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.events import MAX_TOOL_RESULT_BYTES
from tokenrelay.protocol.wire import request
from tokenrelay.workers.conversation import ToolSpec
from tokenrelay.workers.tools import arguments, clock, registry, search
from tokenrelay.workers.tools.base import Outcome
from tokenrelay.workers.tools.calculator import NotArithmetic, calculate
from tokenrelay.workers.tools.registry import Selection, Toolbox
from tokenrelay.workers.tools.search import Found, Search, WebSearch

SUMS = [
    ("6*7", "42"),
    (" 1 + 2 * 3 ", "7"),
    ("(1+2)*3", "9"),
    ("-2**2", "-4"),
    ("2**-1", "0.5"),
    ("7//2", "3"),
    ("7%4", "3"),
    ("1/4", "0.25"),
    ("4/2", "2"),
    ("1e3", "1000"),
    ("0.1+0.2", "0.30000000000000004"),
]
NOT_SUMS = [
    "",
    "x",
    "1+",
    "__import__('os')",
    "(lambda: 1)()",
    "'a'*9",
    "True+1",
    "[1]",
    "1/0",
    "9**9**9",
    "9**999999999",
    "(-1)**0.5",
    "1" * 501,
    "((((" * 200,
    "1e308*10**12*1e308**2",
]


@pytest.mark.parametrize(("expression", "value"), SUMS)
def test_a_sum_has_its_value(expression: str, value: str) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize("expression", NOT_SUMS)
def test_what_is_no_sum_is_refused_in_words(expression: str) -> None:
    with pytest.raises(NotArithmetic):
        calculate(expression)


CALLS: list[tuple[str, dict[str, Any], str, bool]] = [
    ("calculator", {"expression": "6*7"}, "42", False),
    ("Calculator", {"expression": "6*7"}, "42", False),
    ("calculator", {"expression": "x"}, "only numbers, + - * / // % ** and brackets", True),
    ("calculator", {}, "the arguments do not fit: arguments: 'expression' is a required property", True),
    ("calculator", {"expression": 6}, "the arguments do not fit: expression: 6 is not of type 'string'", True),
    ("current_time", {"timezone": "Mars/Olympus"},
     "no time zone is called 'Mars/Olympus'; expected a name such as Europe/Paris", True),
    ("web_search", {"query": "x", "max_results": 99},
     "the arguments do not fit: max_results: 99 is greater than the maximum of 10", True),
    ("nonsense", {}, "there is no tool called 'nonsense'", True),
    ("server.nonsense", {}, "there is no tool called 'server.nonsense'", True),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "text", "failed"), CALLS)
def test_a_call_always_has_an_outcome(name: str, arguments: dict[str, Any], text: str, failed: bool) -> None:
    assert asyncio.run(Toolbox().call(name, arguments)) == Outcome(text, failed)


def test_a_large_result_is_cut_to_what_an_event_takes() -> None:
    shortened = registry.cut("é" * MAX_TOOL_RESULT_BYTES)
    assert len(shortened.encode()) <= MAX_TOOL_RESULT_BYTES
    assert shortened.endswith("… (cut)")


# -- what a schema says -----------------------------------------------------------------------------------------------

NESTED = {
    "type": "object",
    "properties": {"a": {"type": "array", "items": {"enum": [1, 2]}}},
    "additionalProperties": False,
}
FITS: list[tuple[dict[str, Any], dict[str, Any], str | None]] = [
    (NESTED, {"a": [1, 2]}, None),
    (NESTED, {"a": [1, 3]}, "a[1]: 3 is not one of [1, 2]"),
    (NESTED, {"b": 1}, "arguments: Additional properties are not allowed ('b' was unexpected)"),
    ({}, {"anything": None}, None),
    ({"type": "no such type"}, {"a": 1}, None),
    ({"$ref": "http://127.0.0.1:9/schema"}, {"a": 1}, None),
]


@pytest.mark.parametrize(("schema", "given", "issue"), FITS)
def test_arguments_are_held_against_the_schema(
    schema: dict[str, Any], given: dict[str, Any], issue: str | None
) -> None:
    assert arguments.issue(given, schema) == issue


def test_what_does_not_fit_is_told_shortly() -> None:
    issue = arguments.issue({"a": ["x" * 10_000]}, NESTED)
    assert issue is not None
    assert len(issue) == arguments.MAX_ISSUE


# -- the clock --------------------------------------------------------------------------------------------------------

NOON = datetime(2026, 7, 1, 12, 0, tzinfo=UTC)
TIMES = [
    (None, "2026-07-01T12:00:00Z (Wednesday, UTC)"),
    ("utc", "2026-07-01T12:00:00Z (Wednesday, UTC)"),
    ("Europe/Paris", "2026-07-01T14:00:00+02:00 (Wednesday, Europe/Paris, CEST); UTC 2026-07-01T12:00:00Z"),
    ("Asia/Kathmandu", "2026-07-01T17:45:00+05:45 (Wednesday, Asia/Kathmandu, +0545); UTC 2026-07-01T12:00:00Z"),
]


@pytest.mark.parametrize(("zone", "text"), TIMES)
def test_the_time_is_told_in_utc_and_in_the_zone(zone: str | None, text: str) -> None:
    assert clock.describe(NOON, zone) == text


@pytest.mark.parametrize("zone", ["", "Europe", "../etc/passwd", "/etc/localtime", "a\0b", "x" * 300])
def test_what_is_no_zone_is_refused_in_words(zone: str) -> None:
    with pytest.raises(clock.NoSuchZone, match="no time zone is called"):
        clock.describe(NOON, zone)


# -- the search -------------------------------------------------------------------------------------------------------

FOUND: Found = [
    {"title": "A  page", "href": "https://a.example", "body": "First\nlines."},
    {"title": "B", "href": "https://b.example", "body": None},
]


def searched(search: Search, given: dict[str, Any], timeout_s: float = 30) -> Outcome:
    async def scene() -> Outcome:
        box = Toolbox(search=WebSearch(search), timeout_s=timeout_s)
        try:
            return await box.call("duckduckgotool", given)
        finally:
            box.close()

    return asyncio.run(scene())


def test_a_search_lists_what_it_found() -> None:
    asked: list[tuple[str, int]] = []

    def search(query: str, most: int) -> Found:
        asked.append((query, most))
        return FOUND

    got = searched(search, {"query": " tokens ", "max_results": 2})
    assert got == Outcome("1. A page\nhttps://a.example\nFirst lines.\n\n2. B\nhttps://b.example")
    assert asked == [("tokens", 2)]
    assert searched(search, {"query": "x", "max_results": 1}).text.count("http") == 1


def _nothing(_: str, __: int) -> Found:
    return []


def _something(_: str, __: int) -> Found:
    return FOUND


def test_a_search_that_fails_is_a_failed_result() -> None:
    def fails(query: str, most: int) -> Found:
        raise RuntimeError(query)

    assert searched(fails, {"query": "secret"}) == Outcome("the search failed or found nothing; try other words", True)
    assert searched(_nothing, {"query": "x"}) == Outcome("nothing was found")
    assert searched(_something, {"query": " "}) == Outcome("query: expected some words", True)


def test_a_search_that_hangs_is_left_behind() -> None:
    let_go = threading.Event()

    def hangs(query: str, most: int) -> Found:
        let_go.wait(30)
        return FOUND

    try:
        got = searched(hangs, {"query": "x"}, timeout_s=0.05)
    finally:
        let_go.set()
    assert got == Outcome("the tool did not answer within 0.05 s", failed=True)


PAGE = b"""<html><body><div class="links_main result__body"><h2>Found it</h2>
<a href="https://found.example/page">What the page says.</a></div></body></html>"""


def test_ddgs_itself_asks_and_reads_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real library against a server of ours that answers as its engine does."""
    require(importlib.util.find_spec("ddgs"), "ddgs")
    engines = importlib.import_module("ddgs.engines").ENGINES
    engine = engines["text"]["duckduckgo"]
    asked: list[str] = []

    class Engine(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.rfile.read(int(self.headers["content-length"])).decode())
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(PAGE)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Engine) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(engine, "search_url", f"http://127.0.0.1:{server.server_port}/html/")
        monkeypatch.setitem(engines, "text", {"duckduckgo": engine})
        got = searched(search.ask_engines, {"query": "tokens in flight"})
        server.shutdown()
    assert got == Outcome("1. Found it\nhttps://found.example/page\nWhat the page says.")
    assert any("q=tokens" in body for body in asked)


# -- what a request offers --------------------------------------------------------------------------------------------

ALL = ["calculator", "current_time", "web_search"]
OURS = {"type": "function", "function": {"name": "calculator"}}
OWN = {"type": "function", "function": {"name": "get_weather", "description": "d", "parameters": {"type": "object"}}}


def selected(**fields: Any) -> Selection:
    return asyncio.run(Toolbox().select(request.from_object({"message": "x", **fields})))


OFFERS: list[tuple[dict[str, Any], list[str], set[str]]] = [
    ({}, [], set()),
    ({"tools": []}, [], set()),
    ({"enable_tools": True}, ALL, set()),
    ({"enable_tools": True, "tools": []}, ALL, set()),
    ({"enable_tools": False, "tools": ["calculator"]}, [], set()),
    ({"tools": ["calculator", "DuckDuckGoTool"]}, ["calculator", "web_search"], set()),
    ({"tools": ["calculator", {"name": "calculator"}]}, ["calculator"], set()),
    ({"tools": [{"type": "function", "function": {"name": "current_time"}}]}, ["current_time"], set()),
    ({"tools": [OWN, "calculator"]}, ["get_weather", "calculator"], {"get_weather"}),
    (
        {"tools": [{"type": "function", "function": {"name": "calculator"}, "own": True}]},
        ["calculator"],
        {"calculator"},
    ),
]


@pytest.mark.parametrize(("fields", "names", "own"), OFFERS)
def test_a_request_offers_what_it_asks_for(fields: dict[str, Any], names: list[str], own: set[str]) -> None:
    selection = selected(**fields)
    assert [spec.name for spec in selection.specs] == names
    assert set(selection.own) == own


def test_a_callers_own_function_is_told_as_it_came() -> None:
    [spec] = selected(tools=[OWN]).specs
    assert spec == ToolSpec("get_weather", "d", {"type": "object"})
    bare = {"type": "function", "function": {"name": "f"}}
    assert selected(tools=[bare]).specs == [ToolSpec("f", "", {"type": "object"})]


MEANINGLESS: list[tuple[list[Any], str]] = [
    (["calculator", "no_such_tool"], "tools[1]"),
    ([{"name": "no_such_tool"}], "tools[0]"),
    ([OWN, OWN], "tools[1]"),
]


@pytest.mark.parametrize(("tools", "field"), MEANINGLESS)
def test_a_tool_that_is_not_there_is_named(tools: list[Any], field: str) -> None:
    with pytest.raises(TokenrelayError) as caught:
        selected(tools=tools)
    assert (caught.value.code, caught.value.fields["field"]) == ("VALIDATION_ERROR", field)
