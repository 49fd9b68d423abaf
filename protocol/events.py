"""The events of a stream as frozen values, validated when they are made; does not know how they are sent.

Times are integers, milliseconds since the Unix epoch, set by whoever made the event.
`protocol/README.md`, section "Events", is the normative text; `store.entries` turns these into bytes.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter", "cancelled"]
FINISH_REASONS: Final[frozenset[str]] = frozenset(get_args(FinishReason))

MAX_TOOL_RESULT_BYTES: Final = 16 * 1024
"""A tool's result is cut here: the event that carries it must fit one socket write and one publication."""

MAX_DATA_BYTES: Final = 16 * 1024
"""The value of a data event as compact JSON: no more than a tool's result, for the same reason."""

MAX_NAME_CHARACTERS: Final = 64
"""The name of a data event."""


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


class ThinkingStarted(msgspec.Struct, frozen=True):
    """The model thinks. One for each run of thinking, which ends at text, at a tool call or at the end."""

    at_ms: int
    model: str


class Thinking(msgspec.Struct, frozen=True):
    """One piece of what the model thinks, for a request that asked to be shown it."""

    at_ms: int
    model: str
    text: str

    def __post_init__(self) -> None:
        _need(not self.text, "thinking has text")


class ToolInput(msgspec.Struct, frozen=True):
    """One piece of a call's arguments as the model writes them, for a request that asked to be shown it.

    The first piece of a call has the tool's `name` and may have no text yet; the others have text and "" for a name.
    """

    at_ms: int
    model: str
    call_id: str
    name: str
    text: str

    def __post_init__(self) -> None:
        _need(not self.call_id, "a piece of a tool's input has the id of its call")
        _need(not self.name and not self.text, "a piece of a tool's input has text, or begins one")


class ToolCall(msgspec.Struct, frozen=True):
    """The model asks for a tool; `input` is its argument object.

    `own`: k for the k-th call of a function of the caller's own in this answer, from 1; None for a tool of the server.
    """

    at_ms: int
    model: str
    call_id: str
    name: str
    input: dict[str, Any]
    own: int | None = None

    def __post_init__(self) -> None:
        _need(self.own is not None and self.own < 1, "the caller's own calls are counted from 1")
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


class Data(msgspec.Struct, frozen=True):
    """What a generator of one's own tells beside text: any JSON, at most `MAX_DATA_BYTES` of it when it is compact."""

    at_ms: int
    model: str
    name: str
    value: Any

    def __post_init__(self) -> None:
        _need(not self.name or len(self.name) > MAX_NAME_CHARACTERS, "data has a name of at most 64 characters")
        try:
            size = len(json.dumps(self.value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode())
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError("data holds only what JSON can say") from error
        _need(size > MAX_DATA_BYTES, f"data has at most {MAX_DATA_BYTES} bytes, got {size}")


Usage: TypeAlias = dict[str, int]
"""Tokens over all rounds, see `usage`; those that are not known are left out."""


def usage(
    input_tokens: int,
    output_tokens: int,
    *,
    cached_input_tokens: int | None = None,
    cache_write_tokens: int | None = None,
    reasoning_tokens: int | None = None,
) -> Usage:
    """The one shape that events, answers and snapshots have. Cached and cache-written tokens are among the input
    tokens, reasoning tokens among the output tokens; None: the provider did not say."""
    known = {
        "cached_input_tokens": cached_input_tokens,
        "cache_write_tokens": cache_write_tokens,
        "reasoning_tokens": reasoning_tokens,
    }
    return {
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
        **{name: count for name, count in known.items() if count is not None},
    }


def _check_cost(used: Usage | None, cost_usd: float | None) -> None:
    _need(used is not None and min(used.values(), default=0) < 0, "token counts are not negative")
    _need(cost_usd is not None and not 0 <= cost_usd < math.inf, "a cost is finite and not negative")


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
    timing: dict[str, float] | None = None  # where the time went, see `wire.timing`; None: nobody asked
    usage: Usage | None = None  # see `usage`; None: written before there was one
    cost_usd: float | None = None  # None: the catalogue has no price for what answered

    def __post_init__(self) -> None:
        _need(self.finish_reason not in FINISH_REASONS, f"no finish reason is called {self.finish_reason!r}")
        _need(self.input_tokens < 0 or self.output_tokens < 0, "token counts are not negative")
        _need(not 0 <= self.response_time_s < math.inf, "a response time is finite and not negative")
        _check_cost(self.usage, self.cost_usd)


class Failure(msgspec.Struct, frozen=True):
    """The answer ends here without being whole. `code` is a row of `errors.TABLE`; `message` tells no internals."""

    at_ms: int
    code: str
    message: str
    retryable: bool
    retry_after_s: float | None = None
    attempts: list[dict[str, Any]] | None = None  # see `attempt`; None: nobody was asked, or nobody failed
    usage: Usage | None = None  # so far, the round under way estimated; None: nothing was used, or nobody knows
    cost_usd: float | None = None  # so far; None: as in `Completion`
    field: str | None = None  # of the request, that nobody asked could take; None: it is about no field

    def __post_init__(self) -> None:
        _need(not self.code or not self.message, "an error has a code and a sentence")
        wait_s = self.retry_after_s
        _need(wait_s is not None and not 0 <= wait_s < math.inf, "retry_after is finite and not negative")
        _check_cost(self.usage, self.cost_usd)


class Unknown(msgspec.Struct, frozen=True):
    """What a newer worker wrote and this version has no word for. It is read, never written; its id counts."""

    at_ms: int

    def __post_init__(self) -> None:
        _need(type(self.at_ms) is not int, "every event begins with its time")


def attempt(model: str, provider: str, code: str, message: str, seconds: float) -> dict[str, Any]:
    """One failed call of a provider, as `attempts` holds it: a row's id, its provider, a row of `errors.TABLE`,
    a sentence that reveals no internals, and how long it took."""
    return {"model": model, "provider": provider, "error_code": code, "error": message, "seconds": seconds}


Event: TypeAlias = (
    Started
    | Token
    | ThinkingStarted
    | Thinking
    | ToolInput
    | ToolCall
    | ToolResult
    | Data
    | Completion
    | Failure
    | Unknown
)
Terminal: TypeAlias = Completion | Failure


def is_terminal(event: Event) -> bool:
    """True for the one event that ends a stream."""
    return isinstance(event, (Completion, Failure))
