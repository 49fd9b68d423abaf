"""The Anthropic Messages dialect: what is asked, and a pure parser of the answer; refuses to know HTTP.

Sources: https://platform.claude.com/docs/en/api/messages/create and .../build-with-claude/streaming.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import aiohttp
import msgspec

from tokenrelay.protocol.events import FinishReason
from tokenrelay.protocol.wire.sse import Frame
from tokenrelay.workers.conversation import Message, ModelRequest, Piece, ToolSpec, text_of
from tokenrelay.workers.providers.base import Accepts
from tokenrelay.workers.providers.faults import Fault
from tokenrelay.workers.providers.jsontext import UNREADABLE, decode, encode
from tokenrelay.workers.providers.parser import Parser as _Parser
from tokenrelay.workers.providers.upstream import BaseUrl, Capabilities, Timeouts, Upstream

BASE_URL: Final = "https://api.anthropic.com"
VERSION: Final = "2026-10-21"
SAMPLING_VERSION: Final = "2023-06-01"
"""The last one that knows sampling parameters; for models (and servers of the same dialect) whose row says they do.
https://platform.claude.com/docs/en/api/versioning"""
MAX_TOKENS: Final = "max_tokens"

DEFAULT_MAX_TOKENS: Final = 16_384
"""The reference requires a bound. Thinking counts towards it, so it is not for the visible answer alone."""

REFERENCE: Final = Accepts(temperature=False, top_p=False)
"""The reference has no sampling parameters any more; models from before that still take them."""

MAX_TEMPERATURE: Final = 1.0
"""Elsewhere it goes up to 2; more than this is refused here."""

GO_ON: Final = "Continue."
"""Newest models refuse a conversation that ends on their own turn: then somebody has to ask for more."""

FINISHES: Final[Mapping[str, FinishReason]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}

_FOREIGN: Final = re.compile(r"[^a-zA-Z0-9_-]")  # "String should match pattern '^[a-zA-Z0-9_-]+$'"


# -- the wire, as far as it matters here -------------------------------------------------------------------------------


class Usage(msgspec.Struct, frozen=True):
    """ "Total input tokens is the summation of" the three of input. `output_tokens` is what is billed, thinking too."""

    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int | None = None


class Start(msgspec.Struct, frozen=True):
    model: str | None = None
    usage: Usage | None = None


class Block(msgspec.Struct, frozen=True):
    """A content block as it begins. `data` is of thoughts that were sealed before they left the maker."""

    type: str | None = None
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None


class Change(msgspec.Struct, frozen=True):
    """What is added to a block (by `type`), or to the message (`stop_reason`)."""

    type: str | None = None
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    stop_reason: str | None = None


class Event(msgspec.Struct, frozen=True):
    type: str | None = None
    index: int | None = None
    message: Any = None
    content_block: Block | None = None
    delta: Change | None = None
    usage: Usage | None = None
    error: Fault | str | None = None


_EVENT: Final = msgspec.json.Decoder(Event)


# -- the parser --------------------------------------------------------------------------------------------------------


class Parser(_Parser):
    """The body of one answer."""

    dialect = "anthropic"

    def __init__(self, model: str, calls_before: int = 0) -> None:
        super().__init__(model, calls_before)
        self._usage: dict[str, int] = {}  # by field; each event repeats sums, and only those it knows
        self._thoughts: dict[int, dict[str, Any]] = {}  # blocks by index, until a call takes them along

    def _take(self, frame: Frame) -> Iterator[Piece]:
        try:
            event = decode(_EVENT, frame.data)
        except UNREADABLE:
            self._unreadable()
        kind = event.type or frame.event
        index = event.index or 0
        if kind == "content_block_delta" and event.delta is not None:
            yield from self._take_change(index, event.delta)
        elif kind == "content_block_start" and event.content_block is not None:
            yield from self._take_block(index, event.content_block)
        elif kind == "message_start":
            self._take_start(event.message)
        elif kind == "message_delta":
            self._take_usage(event.usage)
            if event.delta is not None and event.delta.stop_reason:
                yield from self._end(FINISHES.get(event.delta.stop_reason, "stop"))
        elif kind == "message_stop":
            if self._reason is None:
                yield from self._end("stop")
            self.is_done = True
        elif kind == "error" or event.error is not None:
            self._fail(event.error or Fault())

    def _take_start(self, message: Any) -> None:
        try:
            start = msgspec.convert(message, Start)
        except UNREADABLE:
            self._unreadable()
        self._model = start.model or self._model
        self._take_usage(start.usage)

    def _take_usage(self, usage: Usage | None) -> None:
        if usage is not None:
            said = msgspec.structs.asdict(usage)
            self._usage |= {name: max(0, value) for name, value in said.items() if value is not None}
            self._output_tokens = self._usage.get("output_tokens", 0)
            self._input_tokens = sum(value for name, value in self._usage.items() if name != "output_tokens")

    def _take_block(self, index: int, block: Block) -> Iterator[Piece]:
        if block.type == "text":
            yield from self._write(block.text)
        elif block.type == "tool_use":
            call = self._call(index)
            call.call_id, call.name = block.id or "", block.name or ""
            if isinstance(block.input, dict) and block.input:  # usually empty, and comes in deltas
                call.object = block.input
                self._count(len(str(block.input)))
            if self._thoughts:
                call.echo, self._thoughts = list(self._thoughts.values()), {}
        elif block.type == "thinking":
            self.progress += 1
            thought = {"type": "thinking", "thinking": block.thinking or "", "signature": block.signature or ""}
            self._thoughts[index] = thought
        elif block.type == "redacted_thinking":
            self.progress += 1
            self._thoughts[index] = {"type": "redacted_thinking", "data": block.data or ""}

    def _take_change(self, index: int, change: Change) -> Iterator[Piece]:
        if change.type == "text_delta":
            yield from self._write(change.text)
        elif change.type == "input_json_delta":
            if index in self._calls:  # and not one of a tool that runs at the maker's
                self._mark()
                self._calls[index].object = None
                self._grow(self._calls[index], change.partial_json)
        elif change.type in ("thinking_delta", "signature_delta"):
            self.progress += 1
            thought = self._thoughts.get(index)
            if thought is not None and thought["type"] == "thinking":
                thought["thinking"] += change.thinking or ""
                thought["signature"] += change.signature or ""
                self._count(len(change.thinking or ""))


# -- the request -------------------------------------------------------------------------------------------------------


def encode_request(request: ModelRequest, accepts: Accepts, default_max_tokens: int = DEFAULT_MAX_TOKENS) -> bytes:
    """The body of the POST: what is None or empty is left to the model, not sent."""
    system = [
        text_of(turn.content) for turn in request.messages if turn.role in ("system", "developer") and turn.content
    ]
    body: dict[str, Any] = {
        "model": request.model,
        accepts.token_limit_field or MAX_TOKENS: (
            default_max_tokens if request.max_tokens is None else request.max_tokens
        ),
        "messages": encode_turns(request.messages),
        "stream": True,
    }
    optional = {
        "system": "\n\n".join(system) or None,
        "temperature": None if request.temperature is None else min(request.temperature, MAX_TEMPERATURE),
        "top_p": request.top_p,
        "stop_sequences": list(request.stop) or None,
        "tools": [_encode_tool(tool) for tool in request.tools] or None,
    }
    return encode(body | {name: value for name, value in optional.items() if value is not None})


def encode_turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Turns of one side that follow each other become one: all results of parallel calls must share one user turn."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        if message.role in ("system", "developer"):
            continue
        blocks = list(_encode_blocks(message))
        role = "assistant" if message.role == "assistant" else "user"
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:  # an empty turn is refused
            turns.append({"role": role, "content": blocks})
    if turns and turns[-1]["role"] == "assistant":
        turns.append({"role": "user", "content": [{"type": "text", "text": GO_ON}]})
    return turns


def _encode_blocks(message: Message) -> Iterator[dict[str, Any]]:
    if message.role == "tool":
        yield {"type": "tool_result", "tool_use_id": _id(message.tool_call_id or ""), "content": message.content}
        return
    for use in message.tool_calls:  # "thinking blocks must come first"
        if use.echo is not None and use.echo.source == Parser.dialect:
            yield from use.echo.value
    if message.content:  # an empty text is refused
        yield {"type": "text", "text": message.content}
    for use in message.tool_calls:
        yield {"type": "tool_use", "id": _id(use.call_id), "name": use.name, "input": use.arguments}


def _id(call_id: str) -> str:
    """Another maker's ids may have what this one refuses."""
    return _FOREIGN.sub("_", call_id)


def _encode_tool(tool: ToolSpec) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "input_schema": {"type": "object", **tool.parameters}}


class Anthropic(Upstream):
    """`POST {base_url}/v1/messages`. `base_url` has no version in it, as in the maker's own SDK.

    Without `accepts` a model takes what the reference has.
    """

    takes = Accepts(seed=False)
    parser = Parser

    def __init__(
        self,
        *,
        api_key: str,
        session: aiohttp.ClientSession,
        name: str = "Anthropic",
        base_url: BaseUrl = BASE_URL,
        accepts: Capabilities | None = None,
        timeouts: Timeouts | None = None,
        default_max_tokens: int = DEFAULT_MAX_TOKENS,
    ) -> None:
        # As the maker's own SDK sends the key since that version.
        headers = {"Authorization": f"Bearer {api_key}", "anthropic-version": VERSION}
        super().__init__(
            name=name,
            base_url=base_url,
            session=session,
            headers=headers,
            accepts=accepts or REFERENCE,
            timeouts=timeouts,
        )
        self._default_max_tokens = default_max_tokens
        self._sampling_headers = {**self._headers, "anthropic-version": SAMPLING_VERSION}

    def path(self, _: ModelRequest) -> str:
        return "/v1/messages"

    def headers(self, request: ModelRequest) -> Mapping[str, str]:
        samples = request.temperature is not None or request.top_p is not None
        return self._sampling_headers if samples else self._headers

    def encode(self, request: ModelRequest, accepts: Accepts) -> bytes:
        return encode_request(request, accepts, self._default_max_tokens)
