"""A malformed event cannot exist."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import pytest

from tests.protocol.cases import AT, CALL, COMPLETION, DATA, FAILURE, INPUT, RESULT, STARTED, THINKS, THOUGHT, token
from tokenrelay.protocol import events
from tokenrelay.protocol.events import (
    MAX_DATA_BYTES,
    MAX_NAME_CHARACTERS,
    MAX_TOOL_RESULT_BYTES,
    Completion,
    Data,
    Event,
    Failure,
    FinishReason,
    Thinking,
    Token,
    ToolCall,
    ToolInput,
    ToolResult,
    Unknown,
    usage,
)
from tokenrelay.protocol.store.entries import TAGS


def completion(
    reason: str = "stop", tokens: tuple[int, int] = (1, 1), response_time_s: float = 1.0
) -> Completion:  # fmt: skip
    given: FinishReason = reason  # type: ignore[assignment]
    return Completion(AT, "m", "up", "Acme", given, *tokens, response_time_s)


def call(name: str = "clock", call_id: str = "c", **tool_input: object) -> ToolCall:
    return ToolCall(AT, "m", call_id, name, tool_input)


def result(text: str = "", call_id: str = "c", **tool_input: object) -> ToolResult:
    return ToolResult(AT, "m", call_id, "clock", tool_input, text)


REFUSED: list[tuple[str, Callable[[], Event], str]] = [
    ("a token without text", lambda: Token(AT, "m", ""), "has text"),
    ("thinking without text", lambda: Thinking(AT, "m", ""), "has text"),
    ("arguments without their call's id", lambda: ToolInput(AT, "m", "", "n", "a"), "the id of its call"),
    ("arguments without name and text", lambda: ToolInput(AT, "m", "c", "", ""), "has text"),
    ("a call counted from 0", lambda: ToolCall(AT, "m", "c", "n", {}, 0), "counted from 1"),
    ("data without a name", lambda: Data(AT, "m", "", 1), "a name"),
    ("data with a long name", lambda: Data(AT, "m", "n" * (MAX_NAME_CHARACTERS + 1), 1), "at most 64"),
    ("data with NaN in it", lambda: Data(AT, "m", "n", [math.nan]), "what JSON can say"),
    ("data that is no JSON", lambda: Data(AT, "m", "n", {"a": b""}), "what JSON can say"),
    ("data that is too large", lambda: Data(AT, "m", "n", "x" * (MAX_DATA_BYTES - 1)), "got 16385"),
    ("data too large in bytes only", lambda: Data(AT, "m", "n", "é" * (MAX_DATA_BYTES // 2)), "got 16386"),
    ("a cost below zero", lambda: Failure(AT, "TIMEOUT", "text", True, cost_usd=-1), "not negative"),
    ("a cost without end", lambda: Failure(AT, "TIMEOUT", "text", True, cost_usd=math.inf), "finite"),
    ("a usage below zero", lambda: Failure(AT, "TIMEOUT", "text", True, usage=usage(1, -1)), "not negative"),
    ("an event without a time", lambda: Unknown("now"), "its time"),  # type: ignore[arg-type]
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
    assert ToolInput(AT, "m", "c", "n", "").text == ToolInput(AT, "m", "c", "", "a").name == ""
    assert len(Data(AT, "m", "n" * MAX_NAME_CHARACTERS, "x" * (MAX_DATA_BYTES - 2)).value) == MAX_DATA_BYTES - 2
    assert Failure(AT, "TIMEOUT", "text", True, usage={}, cost_usd=0).usage == {}
    assert completion(tokens=(0, 0), response_time_s=0).input_tokens == 0
    assert Failure(AT, "TIMEOUT", "text", False, 0).retry_after_s == 0


@pytest.mark.parametrize("reason", sorted(events.FINISH_REASONS))
def test_every_finish_reason_can_be_given(reason: str) -> None:
    assert completion(reason).finish_reason == reason


def test_an_event_does_not_change() -> None:
    with pytest.raises(AttributeError):
        token("a").text = "b"  # type: ignore[misc]


EVERYTHING: list[Event] = [
    STARTED, THINKS, THOUGHT, token("a"), INPUT, CALL, RESULT, DATA, COMPLETION, FAILURE, Unknown(AT),
]  # fmt: skip


def test_exactly_completion_and_failure_end_a_stream() -> None:
    assert [event for event in EVERYTHING if events.is_terminal(event)] == [COMPLETION, FAILURE]


def test_a_usage_says_what_is_known_and_the_sum() -> None:
    assert usage(3, 4) == {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    whole = usage(3, 4, cached_input_tokens=0, cache_write_tokens=1, reasoning_tokens=2)
    assert whole == {**usage(3, 4), "cached_input_tokens": 0, "cache_write_tokens": 1, "reasoning_tokens": 2}


def test_every_event_begins_with_its_time() -> None:
    assert {type(event) for event in EVERYTHING} == {*TAGS.values(), Unknown}
    for kind in map(type, EVERYTHING):
        assert msgspec.structs.fields(kind)[0].name == "at_ms"
