"""The Anthropic Messages dialect: a pure parser of the answer, and who is asked; refuses to know HTTP.

Source: https://platform.claude.com/docs/en/build-with-claude/streaming. What is asked is in `anthropic_request`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import aiohttp
import msgspec

from tokenrelay.protocol.events import FinishReason
from tokenrelay.protocol.wire.sse import Frame
from tokenrelay.workers.conversation import ModelRequest, Piece
from tokenrelay.workers.providers.anthropic_request import GO_ON as GO_ON
from tokenrelay.workers.providers.anthropic_request import MAX_TEMPERATURE, encode_request
from tokenrelay.workers.providers.anthropic_request import takes as takes_part
from tokenrelay.workers.providers.base import Accepts
from tokenrelay.workers.providers.faults import Envelope, Fault, fault_in
from tokenrelay.workers.providers.jsontext import UNREADABLE, arguments_of, decode
from tokenrelay.workers.providers.optional_fields import ANTHROPIC, OptionalFields
from tokenrelay.workers.providers.parser import Parser as _Parser
from tokenrelay.workers.providers.parser import counted
from tokenrelay.workers.providers.tool_schemas import format_asked
from tokenrelay.workers.providers.upstream import BaseUrl, Capabilities, Timeouts, Upstream

BASE_URL: Final = "https://api.anthropic.com"
VERSION: Final = "2026-10-21"
SAMPLING_VERSION: Final = "2023-06-01"
"""The last one that knows sampling parameters; for models (and servers of the same dialect) whose row says they do.
https://platform.claude.com/docs/en/api/versioning"""

REFERENCE: Final = Accepts(temperature=False, top_p=False)
"""The reference has no sampling parameters any more; models from before that still take them."""

FINISHES: Final[Mapping[str, FinishReason]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}


# -- the wire, as far as it matters here -------------------------------------------------------------------------------


class Start(msgspec.Struct, frozen=True):
    model: Any = None
    usage: Any = None


class Change(msgspec.Struct, frozen=True):
    """What is added to a block (by `type`), or to the message (`stop_reason`)."""

    type: str | None = None
    text: str | None = None
    partial_json: Any = None
    thinking: str | None = None
    signature: str | None = None
    citation: Any = None
    stop_reason: str | None = None


class Event(msgspec.Struct, frozen=True):
    type: str | None = None
    index: Any = None
    message: Any = None
    content_block: Any = None
    delta: Change | None = None
    usage: Any = None
    error: Any = None


_EVENT: Final = msgspec.json.Decoder(Event)


# -- the parser --------------------------------------------------------------------------------------------------------


class Parser(_Parser):
    """The body of one answer."""

    dialect = "anthropic"

    def __init__(self, model: str, calls_before: int = 0, may_be_empty: bool = False) -> None:
        super().__init__(model, calls_before, may_be_empty)
        self._usage: dict[str, int] = {}  # by field; each event repeats sums, and only those it knows
        self._blocks: dict[Any, dict[str, Any]] = {}  # the turn, by index
        self._texts: dict[Any, list[str]] = {}  # what has come of each block's text or input
        self._has_cited = False

    def _take(self, frame: Frame) -> Iterator[Piece]:
        try:
            event = decode(_EVENT, frame.data)
        except UNREADABLE:
            self._unreadable()
        kind = event.type or frame.event
        index = event.index or 0
        if kind == "content_block_delta" and event.delta is not None:
            yield from self._take_change(index, event.delta)
        elif kind == "content_block_start" and isinstance(event.content_block, dict):
            yield from self._take_block(index, event.content_block)
        elif kind == "message_start":
            self._take_start(event.message)
        elif kind == "message_delta":
            self._take_usage(event.usage)
            if event.delta is not None and event.delta.stop_reason:
                reason = event.delta.stop_reason
                self.may_be_empty = self.may_be_empty or reason in ("stop_sequence", "pause_turn")
                self._end(FINISHES.get(reason, "stop"))
        elif kind == "message_stop":
            if self._reason is None:
                self._end("stop")
            self.is_done = True
        elif kind == "error" or event.error is not None:
            self._fail(fault_in(Envelope(error=event.error)) or Fault())

    def _take_start(self, message: Any) -> None:
        try:
            start = msgspec.convert(message, Start)
        except UNREADABLE:
            self._unreadable()
        self._model = start.model if isinstance(start.model, str) and start.model else self._model
        self._take_usage(start.usage)

    def _take_usage(self, usage: Any) -> None:
        """ "Total input tokens is the summation of" the three of input. Output is what is billed, thinking too."""
        for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens"):
            if (value := counted(usage, name)) is not None:
                self._usage[name] = value
        self._output_tokens = self._usage.get("output_tokens", 0)
        self._input_tokens = sum(value for name, value in self._usage.items() if name != "output_tokens")
        self._cached = self._usage.get("cache_read_input_tokens")
        self._cache_write = self._usage.get("cache_creation_input_tokens")
        if (thought := counted(usage, "output_tokens_details", "thinking_tokens")) is not None:
            self._reasoning = thought

    def _take_block(self, index: Any, block: dict[str, Any]) -> Iterator[Piece]:
        kind = block.get("type")
        before = self._blocks[next(reversed(self._blocks))]["type"] if self._blocks else None
        self._blocks[index] = dict(block)
        self._texts[index] = []
        if kind == "text":
            self._has_cited = self._has_cited or block.get("citations") is not None
            # Sentences that quote a document come in several blocks: they are one text.
            self._begins_item = self._begins_item or (before is not None and not (before == "text" and self._has_cited))
            yield from self._take_text(index, block.get("text"))
        elif kind == "tool_use":
            call = self._call(index)
            call.their_id, call.name = str(block.get("id") or ""), str(block.get("name") or "")
            if given := block.get("input"):  # usually empty, and comes in deltas
                call.object = given
                self._count(len(str(given)))
            yield from self._show(call)
        elif kind in ("thinking", "redacted_thinking"):
            yield from self._think(str(block.get("thinking") or ""))

    def _take_text(self, index: Any, text: str | None) -> Iterator[Piece]:
        if text:
            self._blocks.setdefault(index, {"type": "text"})  # some servers send no start of a block
            self._texts.setdefault(index, []).append(text)
            yield from self._write(text)

    def _take_change(self, index: Any, change: Change) -> Iterator[Piece]:
        if change.type == "text_delta":
            if change.text and (pieces := self._texts.get(index)) is not None:  # the most frequent event of all
                pieces.append(change.text)
                yield from self._write(change.text)
            else:
                yield from self._take_text(index, change.text)
        elif change.type == "input_json_delta":
            yield from self._take_input(index, change.partial_json)
        elif change.type == "thinking_delta":
            self._add(index, "thinking", change.thinking)
            yield from self._think(change.thinking)
        elif change.type == "signature_delta":
            self._add(index, "signature", change.signature)
        elif change.type == "citations_delta":
            self._has_cited = True
            if index in self._blocks and change.citation is not None:
                self._blocks[index]["citations"] = [*(self._blocks[index].get("citations") or ()), change.citation]

    def _take_input(self, index: Any, said: Any) -> Iterator[Piece]:
        call = self._calls.get(index)
        if call is None:  # a tool that runs at the provider's
            if isinstance(said, str) and index in self._texts:
                self._texts[index].append(said)
                self._count(len(said))
            return
        if isinstance(said, str):
            if said:
                call.object = None
                self._grow(call, said)
        elif said is not None:
            call.object = said
            self._count(len(str(said)))
        yield from self._show(call)

    def _add(self, index: Any, name: str, text: str | None) -> None:
        block = self._blocks.get(index)
        if block is not None and text:
            block[name] = (block.get(name) or "") + text
            self._turn_bytes += len(text)

    def _turn(self) -> Any:
        return [block for index in self._blocks if (block := self._echo_of(index)) is not None]

    def _echo_of(self, index: Any) -> dict[str, Any] | None:
        block, text = self._blocks[index], "".join(self._texts[index])
        match block["type"]:
            case "text":
                block = block | {"text": text}
                return {name: value for name, value in block.items() if value not in (None, [])} if text else None
            case "tool_use":
                return {"type": "tool_use", "id": self._calls[index].call_id}
            case "thinking":
                return {
                    "type": "thinking",
                    "thinking": block.get("thinking") or "",
                    "signature": block.get("signature") or "",
                }
            case _:
                return block | ({"input": arguments_of(text) or {}} if text else {})


class Anthropic(Upstream):
    """`POST {base_url}/v1/messages`. `base_url` has no version in it, as in the provider's own SDK.

    Without `accepts` a model takes what the reference has.
    """

    takes = Accepts(seed=False, audio=False, image_detail=False)
    takes_part = staticmethod(takes_part)
    parser = Parser
    refused_fields = ANTHROPIC

    def __init__(
        self,
        *,
        api_key: str,
        session: aiohttp.ClientSession,
        name: str = "Anthropic",
        base_url: BaseUrl = BASE_URL,
        accepts: Capabilities | None = None,
        timeouts: Timeouts | None = None,
        source: str = Parser.dialect,
    ) -> None:
        # As the provider's own SDK sends the key since that version.
        headers = {"Authorization": f"Bearer {api_key}", "anthropic-version": VERSION}
        super().__init__(
            name=name,
            base_url=base_url,
            session=session,
            headers=headers,
            accepts=accepts or REFERENCE,
            timeouts=timeouts,
            source=source,
        )
        self._sampling_headers = {**self._headers, "anthropic-version": SAMPLING_VERSION}

    def path(self, _: ModelRequest, __: Accepts) -> str:
        return "/v1/messages"

    def headers(self, request: ModelRequest) -> Mapping[str, str]:
        samples = request.temperature is not None or request.top_p is not None
        return self._sampling_headers if samples else self._headers

    def narrowed(self, request: ModelRequest, accepts: Accepts) -> Accepts:
        """Models that think refuse to be made to call a tool; JSON without a schema has no word here."""
        is_made = request.tool_choice not in (None, "auto", "none")
        return msgspec.structs.replace(
            accepts,
            max_temperature=MAX_TEMPERATURE,
            tool_choice=accepts.tool_choice and not (is_made and accepts.thinks),
            response_format=accepts.response_format and format_asked(request) != "json_object",
        )

    def encode(self, request: ModelRequest, accepts: Accepts, extras: OptionalFields) -> dict[str, Any]:
        # Servers of the same dialect may refuse a field that they do not know.
        return encode_request(request, accepts, extras, is_eager=self.source == Parser.dialect)
