"""The events of a stream as typed objects, one class for each kind; the wire's own object stays beside them.

Source: protocol/README.md, section 2. Fields that are newer than this client are in `data`; an event of an unknown kind
is an `Unknown`, and its `token` still counts (section 9).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias


class Event(NamedTuple):
    """An event's id and its object. The id is None for what is not in the stream's log."""

    id: int | None
    data: dict[str, Any]

    @property
    def typed(self) -> TypedEvent:
        """The same event as an object of its kind."""
        return typed(self.id, self.data)


@dataclass(frozen=True, kw_only=True)
class BaseEvent:
    """What every event has. `token`: its text, empty where there is none."""

    id: int | None
    data: Mapping[str, Any]
    token: str = ""
    model: str | None = None
    timestamp: str | None = None  # ISO 8601, UTC

    @property
    def done(self) -> bool:
        """It ends its stream."""
        return bool(self.data.get("done"))


@dataclass(frozen=True, kw_only=True)
class Accepted(BaseEvent):
    """The request was taken; the answer waits for a worker."""

    stream_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Started(BaseEvent):
    """A worker has begun. `routing`: why NeuroSwitch chose the model, where it did."""

    routing: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Token(BaseEvent):
    """A piece of the answer's text."""


@dataclass(frozen=True, kw_only=True)
class ToolCall(BaseEvent):
    """The model calls a tool."""

    tool_call_id: str = ""
    tool_name: str = ""
    tool_input: Mapping[str, Any]
    own: bool = False  # a function of the caller's own: the caller answers it


@dataclass(frozen=True, kw_only=True)
class Thinking(BaseEvent):
    """The model thinks. `thinking`: a piece of it, where it was asked for."""

    thinking: str = ""


@dataclass(frozen=True, kw_only=True)
class ToolArguments(BaseEvent):
    """A piece of the JSON that a tool is called with, as it is written. `tool_input_name`: the tool, in the first."""

    tool_call_id: str = ""
    tool_input_delta: str = ""
    tool_input_name: str | None = None


@dataclass(frozen=True, kw_only=True)
class Data(BaseEvent):
    """What a generator of the operator's own sent beside the text. `value`: any JSON."""

    data_name: str = ""
    value: Any = None


@dataclass(frozen=True, kw_only=True)
class ToolResult(ToolCall):
    """What the tool of an earlier call gave. `tool_error`: it failed."""

    tool_result: str = ""
    tool_error: bool = False


@dataclass(frozen=True, kw_only=True)
class Completion(BaseEvent):
    """The end of a whole answer. `response_time` in seconds; `total_tokens` is input and output together."""

    finish_reason: str = "stop"
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    response_time: float = 0.0
    resolved_model: str | None = None
    provider: str | None = None
    stream_id: str | None = None
    usage: Mapping[str, Any] | None = None
    cost_usd: float | None = None


@dataclass(frozen=True, kw_only=True)
class Error(BaseEvent):
    """The end of an answer that failed. `retry_after` in seconds, None where nothing was said."""

    error: str = ""
    error_code: str = ""
    retryable: bool = False
    retry_after: float | None = None
    usage: Mapping[str, Any] | None = None  # so far
    cost_usd: float | None = None  # so far
    stream_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Unknown(BaseEvent):
    """An event that is newer than this client."""


TypedEvent: TypeAlias = (
    Accepted | Started | Token | Thinking | ToolArguments | ToolCall | ToolResult | Data | Completion | Error | Unknown
)


def typed(event_id: int | None, data: Mapping[str, Any]) -> TypedEvent:
    """The event as an object of its kind."""
    kind = _kind_of(data)
    # A null field is one that is not there: the class knows what stands in its place.
    fields = {
        name: data[name]
        for name in kind.__dataclass_fields__
        if name not in ("id", "data") and data.get(name) is not None
    }
    if issubclass(kind, ToolCall):
        fields.setdefault("tool_input", {})
    if kind is Data:
        fields["value"] = data.get("data")
    return kind(**{**fields, "id": event_id, "data": data})


def _kind_of(data: Mapping[str, Any]) -> type[TypedEvent]:
    """By what tells the kinds apart, as the table of section 2 says."""
    if data.get("done"):
        return Error if "error_code" in data else Completion
    if "tool_result" in data:
        return ToolResult
    if "tool_name" in data:
        return ToolCall
    if "tool_input_delta" in data:
        return ToolArguments
    if "data_name" in data:
        return Data
    if "thinking" in data:
        return Thinking
    by_status: dict[object, type[TypedEvent]] = {"queued": Accepted, "started": Started, "thinking": Thinking}
    return by_status.get(data.get("status")) or (Token if data.get("token") else Unknown)
