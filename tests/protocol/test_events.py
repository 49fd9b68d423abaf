"""A malformed event cannot exist."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import pytest

from tests.protocol.cases import AT, CALL, COMPLETION, FAILURE, RESULT, STARTED, token
from tokenrelay.protocol import events
from tokenrelay.protocol.events import (
    MAX_TOOL_RESULT_BYTES,
    Completion,
    Event,
    Failure,
    FinishReason,
    Token,
    ToolCall,
    ToolResult,
)


def completion(
    reason: str = "stop", tokens: tuple[int, int] = (1, 1), response_time_s: float = 1.0
) -> Completion:  # fmt: skip
    given: FinishReason = reason  # type: ignore[assignment]
    return Completion(AT, "m", "up", "Maker", given, *tokens, response_time_s)


def call(name: str = "clock", call_id: str = "c", **tool_input: object) -> ToolCall:
    return ToolCall(AT, "m", call_id, name, tool_input)


def result(text: str = "", call_id: str = "c", **tool_input: object) -> ToolResult:
    return ToolResult(AT, "m", call_id, "clock", tool_input, text)


REFUSED: list[tuple[str, Callable[[], Event], str]] = [
    ("a token without text", lambda: Token(AT, "m", ""), "has text"),
    ("a call of no tool", lambda: call(name=""), "names its tool"),
    ("a call without id", lambda: call(call_id=""), "has an id"),
    ("a call with NaN in it", lambda: call(x=[{"y": math.nan}]), "no NaN"),
    ("a call with an infinity in it", lambda: call(x=-math.inf), "no infinity"),
    ("a result without its call's id", lambda: result(call_id=""), "has the id of its call"),
    ("a result that is too large", lambda: result("x" * (MAX_TOOL_RESULT_BYTES + 1)), "at most 16384 bytes"),
    ("a result too large in bytes only", lambda: result("é" * (MAX_TOOL_RESULT_BYTES // 2 + 1)), "got 16386"),
    ("a result with NaN in its input", lambda: result(x=math.nan), "no NaN"),
    ("a reason nobody knows", lambda: completion("because"), "because"),
    ("input tokens below zero", lambda: completion(tokens=(-1, 0)), "not negative"),
    ("output tokens below zero", lambda: completion(tokens=(0, -1)), "not negative"),
    ("a time below zero", lambda: completion(response_time_s=-0.1), "not negative"),
    ("a time that is no number", lambda: completion(response_time_s=math.nan), "finite"),
    ("a time without end", lambda: completion(response_time_s=math.inf), "finite"),
    ("an error without code", lambda: Failure(AT, "", "text", True), "a code"),
    ("an error without sentence", lambda: Failure(AT, "TIMEOUT", "", True), "a sentence"),
    ("a wait below zero", lambda: Failure(AT, "TIMEOUT", "text", True, -1), "not negative"),
    ("a wait that is no number", lambda: Failure(AT, "TIMEOUT", "text", True, math.nan), "finite"),
    ("a wait without end", lambda: Failure(AT, "TIMEOUT", "text", True, math.inf), "finite"),
]


@pytest.mark.parametrize(("make", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_it_cannot_be_made(make: Callable[[], Event], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_what_stands_at_a_bound_can_be_made() -> None:
    assert len(result("x" * MAX_TOOL_RESULT_BYTES).result) == MAX_TOOL_RESULT_BYTES
    assert result("").result == ""
    assert completion(tokens=(0, 0), response_time_s=0).input_tokens == 0
    assert Failure(AT, "TIMEOUT", "text", False, 0).retry_after_s == 0


@pytest.mark.parametrize("reason", sorted(events.FINISH_REASONS))
def test_every_finish_reason_can_be_given(reason: str) -> None:
    assert completion(reason).finish_reason == reason


def test_an_event_does_not_change() -> None:
    with pytest.raises(AttributeError):
        token("a").text = "b"  # type: ignore[misc]


def test_exactly_completion_and_failure_end_a_stream() -> None:
    everything: list[Event] = [STARTED, token("a"), CALL, RESULT, COMPLETION, FAILURE]
    assert [event for event in everything if events.is_terminal(event)] == [COMPLETION, FAILURE]


def test_every_event_begins_with_its_time() -> None:
    for kind in (type(event) for event in (STARTED, token("a"), CALL, RESULT, COMPLETION, FAILURE)):
        assert msgspec.structs.fields(kind)[0].name == "at_ms"
