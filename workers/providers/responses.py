"""The OpenAI Responses dialect: a pure parser of the answer, and who is asked; refuses to know HTTP.

Source: https://platform.openai.com/docs/api-reference/responses-streaming. What is asked is in `responses_request`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import aiohttp
import msgspec

from tokenrelay.protocol.events import FinishReason
from tokenrelay.protocol.wire.sse import Frame
from tokenrelay.workers.conversation import ModelRequest, Piece
from tokenrelay.workers.providers.base import Accepts
from tokenrelay.workers.providers.faults import Envelope, Fault, fault_in
from tokenrelay.workers.providers.jsontext import UNREADABLE, decode
from tokenrelay.workers.providers.optional_fields import RESPONSES, OptionalFields
from tokenrelay.workers.providers.parser import Parser as _Parser
from tokenrelay.workers.providers.parser import counted
from tokenrelay.workers.providers.responses_request import encode_request
from tokenrelay.workers.providers.responses_request import takes as takes_part
from tokenrelay.workers.providers.upstream import BaseUrl, Capabilities, Timeouts, Upstream

BASE_URL: Final = "https://api.openai.com/v1"

INCOMPLETE: Final[Mapping[str, FinishReason]] = {
    "max_output_tokens": "length",
    "max_tokens": "length",
    "max_messages": "length",
    "content_filter": "content_filter",
}
"""Why a response is incomplete. For any other reason it is not the whole answer."""


# -- the wire, as far as it matters here -------------------------------------------------------------------------------


class Item(msgspec.Struct, frozen=True):
    """One thing the model made: a message, a call or thoughts, which are kept whole."""

    type: Any = None
    id: Any = None
    call_id: str | None = None
    name: str | None = None
    arguments: Any = None  # text; some servers send the object itself
    content: Any = None
    phase: Any = None
    summary: Any = None
    encrypted_content: str | None = None


class Details(msgspec.Struct, frozen=True):
    reason: str | None = None


class Response(msgspec.Struct, frozen=True):
    model: Any = None
    status: Any = None
    usage: Any = None
    error: Any = None
    incomplete_details: Details | None = None
    output: Any = None


class Event(msgspec.Struct, frozen=True):
    """Any event: all have a `type`, the rest by type. An `error` event may hold its fault inside or be it."""

    type: str | None = None
    delta: Any = None
    text: Any = None
    refusal: Any = None
    arguments: Any = None
    output_index: Any = None
    content_index: Any = None
    summary_index: Any = None
    item: Item | None = None
    response: Response | None = None
    error: Any = None
    message: Any = None
    code: Any = None


_EVENT: Final = msgspec.json.Decoder(Event)


# -- the parser --------------------------------------------------------------------------------------------------------


class Parser(_Parser):
    """The body of one answer."""

    dialect = "responses"
    # The last event repeats the whole answer, the request's tools, and sealed thoughts.
    max_event_bytes = 8 * 1024 * 1024

    def __init__(self, model: str, calls_before: int = 0, may_be_empty: bool = False) -> None:
        super().__init__(model, calls_before, may_be_empty)
        self._output: Any = None  # of the text that is written
        self._content: Any = None
        self._open: list[str] | None = None  # its pieces; None: no text yet
        self._items: dict[Any, dict[str, Any]] = {}  # the turn, by output index
        self._texts: dict[Any, list[str]] = {}  # of the messages in it

    def _take(self, frame: Frame) -> Iterator[Piece]:
        try:
            event = decode(_EVENT, frame.data)
        except UNREADABLE:
            self._unreadable()
        kind = event.type or frame.event
        if kind == "response.output_text.delta":
            if self._open is not None and event.output_index == self._output and event.content_index == self._content:
                if text := _text(event.delta):  # the most frequent event of all
                    self._open.append(text)
                    yield from self._write(text)
            else:
                yield from self._take_text(event, event.delta)
        elif kind == "response.function_call_arguments.delta":
            call = self._call(event.output_index or 0)
            self._grow(call, _text(event.delta))
            yield from self._show(call)
        elif kind.startswith("response.reasoning"):
            yield from self._take_thought(kind, event)
        elif kind in ("response.refusal.delta", "response.refusal.done"):
            self._has_refused = True
            yield from self._take_text(event, event.delta if kind.endswith("delta") else None, event.refusal)
        elif kind == "response.output_text.done":
            yield from self._take_text(event, None, event.text)
        elif kind == "response.function_call_arguments.done":
            call = self._call(event.output_index or 0)
            self._complete(call, event.arguments)
            yield from self._show(call)
        elif kind.startswith("response.output_item."):
            yield from self._take_item(event.output_index or 0, event.item or Item(), kind.endswith(".done"))
        elif kind == "error":
            fault = fault_in(Envelope(error=event.error, message=event.message, code=event.code))
            self._fail(fault or Fault())
        elif event.response is not None:
            yield from self._take_response(kind, event.response)
        elif event.error is not None:
            self._fail(fault_in(Envelope(error=event.error)) or Fault())

    def _take_text(self, event: Event, delta: Any, whole: Any = None) -> Iterator[Piece]:
        """A delta, or at the end the whole text where no delta has come before it."""
        if delta is None:
            if event.output_index in self._texts:
                return
            delta = whole
        if not (text := _text(delta)):
            return
        if self._open is None or (event.output_index, event.content_index) != (self._output, self._content):
            self._begins_item = self._open is not None
            self._output, self._content = event.output_index, event.content_index
            self._open = self._texts.setdefault(event.output_index, [])
        self._open.append(text)
        yield from self._write(text)

    def _take_thought(self, kind: str, event: Event) -> Iterator[Piece]:
        if kind.endswith("_text.delta"):
            yield from self._think(_text(event.delta))
        elif kind == "response.reasoning_summary_part.added":
            yield from self._think("\n\n" if event.summary_index else "")

    def _complete(self, call: Any, arguments: Any) -> None:
        """What the pieces add up to, or the object itself."""
        if isinstance(arguments, str):
            if not call.arguments:
                self._grow(call, arguments)
            elif arguments and arguments != "".join(call.arguments):
                call.object = arguments
        elif arguments is not None and not call.arguments:
            call.object = arguments
            self._count(len(str(arguments)))

    def _take_item(self, index: Any, item: Item, is_done: bool) -> Iterator[Piece]:
        if item.type == "reasoning":
            if is_done and item.encrypted_content:
                sealed = {"type": "reasoning", "id": item.id or "", "summary": item.summary or []}
                sealed |= {"content": item.content} if item.content else {}
                self._items[index] = sealed | {"encrypted_content": item.encrypted_content}
                self._turn_bytes += len(item.encrypted_content)
            if not is_done:
                yield from self._think("")
        elif item.type == "function_call":
            call = self._call(index)
            call.their_id = item.call_id or call.their_id
            call.name = item.name or call.name
            if is_done:
                self._complete(call, item.arguments)
            self._items[index] = {"type": "function_call"}
            yield from self._show(call)
        elif item.type == "message":
            message = {"type": "message", "role": "assistant"}
            self._items[index] = message | ({"phase": item.phase} if item.phase else {})
            if is_done:
                yield from self._take_content(index, item.content)

    def _take_content(self, index: Any, content: Any) -> Iterator[Piece]:
        """A message that came whole, with no deltas before."""
        if index in self._texts or not isinstance(content, list):
            return
        for number, part in enumerate(content):
            if isinstance(part, dict) and (text := _text(part.get("text") or part.get("refusal"))):
                self._has_refused = self._has_refused or bool(part.get("refusal"))
                yield from self._take_text(Event(output_index=index, content_index=number), text)

    def _take_response(self, kind: str, response: Response) -> Iterator[Piece]:
        self._model = _text(response.model) or self._model
        if response.usage is not None:
            self._take_usage(response.usage)
        if kind == "response.failed" or (kind == "response.completed" and response.status in ("failed", "cancelled")):
            self._fail(fault_in(Envelope(error=response.error)) or Fault())
        if kind not in ("response.completed", "response.incomplete"):
            return
        if not self.has_written and isinstance(response.output, list):  # a server that sends no deltas at all
            for index, item in enumerate(response.output):
                try:
                    yield from self._take_item(index, msgspec.convert(item, Item), is_done=True)
                except UNREADABLE:
                    self._unreadable()
        if kind == "response.incomplete" or response.status == "incomplete":
            details = response.incomplete_details or Details()
            reason = INCOMPLETE.get(details.reason or "")
            if reason is None:
                self._unfinished("the model's provider broke off in the middle of the answer")
            self._end(reason)
        else:
            self._end("stop")
        self.is_done = True

    def _take_usage(self, usage: Any) -> None:
        self._input_tokens = counted(usage, "input_tokens") or 0
        self._output_tokens = counted(usage, "output_tokens") or 0
        self._cached = counted(usage, "input_tokens_details", "cached_tokens")
        self._cache_write = counted(usage, "input_tokens_details", "cache_write_tokens")
        self._reasoning = counted(usage, "output_tokens_details", "reasoning_tokens")

    def _turn(self) -> Any:
        turn: list[dict[str, Any]] = []
        for index in sorted(self._items, key=lambda index: index if isinstance(index, int) else 0):
            item = self._items[index]
            if item["type"] == "function_call":
                turn.append(item | {"call_id": self._calls[index].call_id})
            elif item["type"] == "message":
                if text := "".join(self._texts.get(index, ())):
                    turn.append(item | {"content": text})
            else:
                turn.append(item)
        return turn


def _text(value: Any) -> str:
    """Other events' deltas may be objects."""
    return value if isinstance(value, str) else ""


class Responses(Upstream):
    """`POST {base_url}/responses`, stateless. The dialect has no words for stop sequences and seeds."""

    takes = Accepts(stop=False, seed=False, audio=False)
    takes_part = staticmethod(takes_part)
    parser = Parser
    refused_fields = RESPONSES
    # https://platform.openai.com/docs/api-reference/debugging-requests
    request_id_header = "X-Client-Request-Id"

    def __init__(
        self,
        *,
        api_key: str,
        session: aiohttp.ClientSession,
        name: str = "OpenAI",
        base_url: BaseUrl = BASE_URL,
        accepts: Capabilities | None = None,
        timeouts: Timeouts | None = None,
        source: str = Parser.dialect,
    ) -> None:
        super().__init__(
            name=name,
            base_url=base_url,
            session=session,
            headers={"Authorization": f"Bearer {api_key}"},
            accepts=accepts,
            timeouts=timeouts,
            source=source,
        )

    def path(self, _: ModelRequest, __: Accepts) -> str:
        return "/responses"

    def encode(self, request: ModelRequest, accepts: Accepts, extras: OptionalFields) -> dict[str, Any]:
        return encode_request(request, accepts, extras)
