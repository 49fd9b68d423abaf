"""A log folded into what it amounts to."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from tests.protocol.cases import (
    AT,
    CALL,
    COMPLETION,
    DATA,
    FAILURE,
    INPUT,
    MORE_INPUT,
    RESULT,
    STARTED,
    STREAM,
    THINKS,
    THOUGHT,
    entry,
    token,
)
from tokenrelay.protocol.events import Event, ToolResult, usage
from tokenrelay.protocol.lifecycle import PublicState
from tokenrelay.protocol.wire.snapshot import Snapshot

CALLED = {"tool_name": "calculator", "tool_input": {"expression": "6*7"}, "tool_call_id": "call_0"}
CLOCK = {
    "tool_name": "clock", "tool_input": {}, "tool_call_id": "call_1", "tool_result": "no clock", "tool_error": True,
}  # fmt: skip
FAILED = ToolResult(AT, "m", "call_1", "clock", {}, "no clock", failed=True)


def folded(*events: Event) -> Snapshot:
    made = Snapshot()
    made.take(1, [entry(event) for event in events])
    return made


TOOLS: list[tuple[str, list[Event], list[dict[str, Any]]]] = [
    ("none", [STARTED, token("a")], []),
    ("called", [STARTED, CALL], [CALLED]),
    ("answered", [STARTED, CALL, RESULT], [{**CALLED, "tool_result": "42"}]),
    ("two, answered in the wrong order", [CALL, FAILED, RESULT],
     [{**CALLED, "tool_result": "42"}, CLOCK]),
]  # fmt: skip


@pytest.mark.parametrize(("events", "calls"), [row[1:] for row in TOOLS], ids=[row[0] for row in TOOLS])
def test_tool_calls_are_told_with_what_they_gave(events: list[Event], calls: list[dict[str, Any]]) -> None:
    assert folded(*events).tool_calls == calls


def test_a_whole_answer() -> None:
    made = folded(STARTED, token("He"), CALL, RESULT, token("llo"), COMPLETION)
    assert made.answer(STREAM) == {
        "response": "Hello", "model": "m", "resolved_model": "up", "provider": "Acme", "finish_reason": "stop",
        "total_tokens": 7, "input_tokens": 3, "output_tokens": 4, "response_time": 0.5, "stream_id": STREAM,
        "tool_calls": [{**CALLED, "tool_result": "42"}],
        "usage": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
    }  # fmt: skip
    assert made.has_ended
    assert made.last_id == 6


def test_an_answer_needs_its_completion() -> None:
    with pytest.raises(LookupError):
        folded(STARTED, token("a"), FAILURE).answer(STREAM)


UNKNOWN_YET = ("finish_reason", "resolved_model", "provider", "response_time", "usage", "error")
NOTHING_YET = dict.fromkeys(UNKNOWN_YET)
STATES: list[tuple[str, list[Event], str, dict[str, Any]]] = [
    ("nothing written", [], "queued", {"text": "", "last_event_id": 0, "tool_calls": [], **NOTHING_YET}),
    ("being written", [STARTED, token("a"), token("b")], "running",
     {"text": "ab", "last_event_id": 3, "tool_calls": [], **NOTHING_YET}),
    ("whole", [STARTED, token("a"), COMPLETION], "completed",
     {"text": "a", "last_event_id": 3, "tool_calls": [], "finish_reason": "stop", "resolved_model": "up",
      "provider": "Acme", "response_time": 0.5, "error": None,
      "usage": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}}),
    ("failed", [STARTED, token("a"), FAILURE], "failed",
     {"text": "a", "last_event_id": 3, "tool_calls": [], **NOTHING_YET,
      "error": {"error": "it fell silent", "error_code": "TIMEOUT", "retryable": True}}),
]  # fmt: skip


@pytest.mark.parametrize(("events", "state", "rest"), [row[1:] for row in STATES], ids=[row[0] for row in STATES])
def test_a_stream_as_it_stands(events: list[Event], state: str, rest: dict[str, Any]) -> None:
    assert state in get_args(PublicState)
    assert folded(*events).state(STREAM, state, "m") == {"stream_id": STREAM, "state": state, "model": "m", **rest}


USED = usage(3, 4, cached_input_tokens=2, reasoning_tokens=1)


def test_thinking_data_usage_and_cost_are_told_where_there_are_any() -> None:
    end = msgspec.structs.replace(COMPLETION, usage=USED, cost_usd=0.25)
    made = folded(STARTED, THINKS, THOUGHT, INPUT, MORE_INPUT, THINKS, THOUGHT, token("a"), DATA, DATA, end)
    told = {
        "thinking": THOUGHT.text * 2, "data": [{"data_name": "step", "data": {"node": "search"}}] * 2, "usage": USED,
        "cost_usd": 0.25,
    }  # fmt: skip
    for made_of_it in (made.answer(STREAM), made.state(STREAM, "completed", "m")):
        assert made_of_it.items() >= told.items()
    assert (made.text, made.tool_calls) == ("a", [])


def test_a_failed_answer_tells_what_it_used() -> None:
    made = folded(STARTED, msgspec.structs.replace(FAILURE, usage=USED, cost_usd=0.0))
    assert made.state(STREAM, "failed", "m").items() >= {"usage": USED, "cost_usd": 0.0}.items()


def test_a_call_of_the_callers_own_function_says_so() -> None:
    own = msgspec.structs.replace(CALL, own=2)
    assert folded(own, RESULT).tool_calls == [{**CALLED, "own": 2, "tool_result": "42"}]


@pytest.mark.parametrize("first", [0, 2, 4])
def test_entries_that_do_not_follow_are_refused(first: int) -> None:
    made = folded(STARTED, token("a"))
    with pytest.raises(LookupError, match=f"expected entry 3, got {first}"):
        made.take(first, [entry(token("b"))])
    assert (made.last_id, made.text) == (2, "a")


def test_it_grows_page_by_page() -> None:
    made = folded(STARTED, token("a"))
    made.take(3, [entry(token("b")), entry(COMPLETION)])
    assert (made.last_id, made.text, made.has_ended) == (4, "ab", True)
