"""The events of a stream as frozen values that are valid from birth; refuses to know how they travel.

Times are integers, milliseconds since the Unix epoch, set by whoever made the event.
`protocol/README.md`, section "Events", is the normative text; `store.entries` turns these into bytes.
"""

from __future__ import annotations

import math
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter", "cancelled"]
FINISH_REASONS: Final[frozenset[str]] = frozenset(get_args(FinishReason))

MAX_TOOL_RESULT_BYTES: Final = 16 * 1024
"""A tool's result is cut here: the event that carries it must fit one socket write and one publication."""


def _need(fault: bool, what: str) -> None:
    if fault:
        raise ValueError(what)


def _is_json(value: Any) -> bool:
    """False where a float is hidden that JSON has no word for: its entry could be stored but never be delivered."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_is_json, value.values()))
    return not isinstance(value, (list, tuple)) or all(map(_is_json, value))


class Started(msgspec.Struct, frozen=True):
    """The worker has begun. `routing` says why NeuroSwitch chose this model; None when the caller named it."""

    at_ms: int
    model: str
    routing: dict[str, Any] | None = None


class Token(msgspec.Struct, frozen=True):
    """One piece of the answer, exactly as the model wrote it."""

    at_ms: int
    model: str
    text: str

    def __post_init__(self) -> None:
        _need(not self.text, "a token has text")


class ToolCall(msgspec.Struct, frozen=True):
    """The model asks for a tool; `input` is its argument object."""

    at_ms: int
    model: str
    call_id: str
    name: str
    input: dict[str, Any]

    def __post_init__(self) -> None:
        _need(not self.name, "a tool call names its tool")
        _need(not self.call_id, "a tool call has an id")
        _need(not _is_json(self.input), "a tool call's input has no NaN and no infinity")


class ToolResult(msgspec.Struct, frozen=True):
    """What the tool of the call with the same id gave, at most `MAX_TOOL_RESULT_BYTES` of UTF-8."""

    at_ms: int
    model: str
    call_id: str
    name: str
    input: dict[str, Any]
    result: str
    failed: bool = False

    def __post_init__(self) -> None:
        _need(not self.call_id, "a tool result has the id of its call")
        _need(not _is_json(self.input), "a tool result's input has no NaN and no infinity")
        size = len(self.result.encode())
        _need(size > MAX_TOOL_RESULT_BYTES, f"a tool result has at most {MAX_TOOL_RESULT_BYTES} bytes, got {size}")


class Completion(msgspec.Struct, frozen=True):
    """The answer is whole (or was cancelled). Token counts are summed over all rounds; `response_time_s` in seconds."""

    at_ms: int
    model: str
    resolved_model: str
    provider: str
    finish_reason: FinishReason
    input_tokens: int
    output_tokens: int
    response_time_s: float
    attempts: list[dict[str, Any]] | None = None  # those that failed before, see `attempt`; None: the first answered
    left_out: list[str] | None = None  # fields of the request that the model does not take; None: it took all
    timing: dict[str, float] | None = None  # where the time went, see `protocol.timing`; None: nobody asked

    def __post_init__(self) -> None:
        _need(self.finish_reason not in FINISH_REASONS, f"no finish reason is called {self.finish_reason!r}")
        _need(self.input_tokens < 0 or self.output_tokens < 0, "token counts are not negative")
        _need(not 0 <= self.response_time_s < math.inf, "a response time is finite and not negative")


class Failure(msgspec.Struct, frozen=True):
    """The answer ends here without being whole. `code` is a row of `errors.TABLE`; `message` tells no internals."""

    at_ms: int
    code: str
    message: str
    retryable: bool
    retry_after_s: float | None = None
    attempts: list[dict[str, Any]] | None = None  # see `attempt`; None: nobody was asked, or nobody failed

    def __post_init__(self) -> None:
        _need(not self.code or not self.message, "an error has a code and a sentence")
        wait_s = self.retry_after_s
        _need(wait_s is not None and not 0 <= wait_s < math.inf, "retry_after is finite and not negative")


def attempt(model: str, provider: str, code: str, message: str, seconds: float) -> dict[str, Any]:
    """One failed call of a provider, as `attempts` holds it: a row's id, its provider, a row of `errors.TABLE`,
    a sentence that reveals no internals, and how long it took."""
    return {"model": model, "provider": provider, "error_code": code, "error": message, "seconds": seconds}


Event: TypeAlias = Started | Token | ToolCall | ToolResult | Completion | Failure
Terminal: TypeAlias = Completion | Failure


def is_terminal(event: Event) -> bool:
    """True for the one event that ends a stream."""
    return isinstance(event, (Completion, Failure))
