"""A conversation as a model is told it, and the pieces of its answer. Knows no provider, no tool and no Redis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from tokenrelay.protocol.events import FinishReason


class Echo(msgspec.Struct, frozen=True):
    """What a maker wants back with its own tool call, word for word (signed thoughts). Only `dialect` reads `value`."""

    dialect: str
    value: Any


class ToolUse(msgspec.Struct, frozen=True):
    """One call the model asked for; `arguments` is its argument object, already parsed. Hand `echo` back unread."""

    call_id: str
    name: str
    arguments: dict[str, Any]
    echo: Echo | None = None


class Message(msgspec.Struct, frozen=True):
    """One turn. `tool_calls` only on an assistant's turn; `tool_call_id` only on a tool's (role `tool`)."""

    role: str
    content: str
    tool_calls: tuple[ToolUse, ...] = ()
    tool_call_id: str | None = None


class ToolSpec(msgspec.Struct, frozen=True):
    """A tool as a model is told of it; `parameters` is a JSON Schema of type object."""

    name: str
    description: str
    parameters: Mapping[str, Any]


class ModelRequest(msgspec.Struct, frozen=True):
    """One round. `model` is the upstream id; None means: leave it to the model. `request_id` and `traceparent` say who
    asks, for the maker's logs and a trace; "" for none."""

    model: str
    messages: Sequence[Message]
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: Sequence[str] = ()
    seed: int | None = None
    tools: Sequence[ToolSpec] = ()
    request_id: str = ""
    traceparent: str = ""


class Delta(msgspec.Struct, frozen=True):
    """A piece of the answer; never empty."""

    text: str


class Finish(msgspec.Struct, frozen=True):
    """The round is over; the last thing a provider yields. `resolved_model` is what the maker says answered.

    `input_tokens` is everything the model read, from a cache or not; `output_tokens` is what the maker bills as output,
    thinking included.
    """

    reason: FinishReason
    input_tokens: int
    output_tokens: int
    resolved_model: str


Piece: TypeAlias = Delta | ToolUse | Finish
