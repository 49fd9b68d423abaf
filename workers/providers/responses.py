"""The OpenAI Responses dialect: what is asked, and a pure parser of the answer; refuses to know HTTP.

Source: https://platform.openai.com/docs/api-reference/responses/create and .../responses-streaming.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import aiohttp
import msgspec

from tokenrelay.protocol.events import FinishReason
from tokenrelay.protocol.wire.sse import Frame
from tokenrelay.workers.conversation import Message, ModelRequest, Piece, ToolSpec
from tokenrelay.workers.providers.base import Accepts
from tokenrelay.workers.providers.faults import Fault
from tokenrelay.workers.providers.jsontext import UNREADABLE, decode, encode
from tokenrelay.workers.providers.parser import Parser as _Parser
from tokenrelay.workers.providers.upstream import BaseUrl, Capabilities, Timeouts, Upstream

BASE_URL: Final = "https://api.openai.com/v1"
MAX_TOKENS: Final = "max_output_tokens"
SEALED: Final = "reasoning.encrypted_content"

INCOMPLETE: Final[Mapping[str, FinishReason]] = {
    "max_output_tokens": "length",
    "max_messages": "length",
    "content_filter": "content_filter",
}
"""Why a response is incomplete."""


# -- the wire, as far as it matters here -------------------------------------------------------------------------------


class Item(msgspec.Struct, frozen=True):
    """One thing the model made. Of a function call the first five matter, a `reasoning` one is kept whole."""

    type: str | None = None
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: Any = None  # an object in items that are not ours to run
    summary: Any = None
    encrypted_content: str | None = None


class Usage(msgspec.Struct, frozen=True):
    """`input_tokens` counts cached ones too, `output_tokens` those of thinking."""

    input_tokens: int | None = None
    output_tokens: int | None = None


class Details(msgspec.Struct, frozen=True):
    reason: str | None = None


class Response(msgspec.Struct, frozen=True):
    model: str | None = None
    usage: Usage | None = None
    error: Fault | str | None = None
    incomplete_details: Details | None = None


class Event(msgspec.Struct, frozen=True):
    """Any event: all have a `type`, the rest by type. An `error` event may hold its fault inside or be it."""

    type: str | None = None
    delta: Any = None
    arguments: Any = None
    output_index: int | None = None
    item: Item | None = None
    response: Response | None = None
    error: Fault | str | None = None
    message: Any = None
    code: Any = None


_EVENT: Final = msgspec.json.Decoder(Event)


# -- the parser --------------------------------------------------------------------------------------------------------


class Parser(_Parser):
    """The body of one answer."""

    dialect = "responses"
    max_event_bytes = (
        8 * 1024 * 1024
    )  # the last event repeats the whole answer, the request's tools, and sealed thoughts

    def __init__(self, model: str, calls_before: int = 0) -> None:
        super().__init__(model, calls_before)
        self._thoughts: list[dict[str, Any]] = []  # reasoning items that go back with the call that follows them

    def _take(self, frame: Frame) -> Iterator[Piece]:
        if frame.data == "[DONE]":  # the maker sends none, servers of the same dialect may
            return
        try:
            event = decode(_EVENT, frame.data)
        except UNREADABLE:
            self._unreadable()
        kind = event.type or frame.event
        if kind == "response.output_text.delta":
            yield from self._write(_text(event.delta))
        elif kind == "response.refusal.delta":
            self._has_refused = True
            yield from self._write(_text(event.delta))
        elif kind.startswith("response.reasoning"):
            self.progress += 1
        elif kind.startswith("response.function_call_arguments."):
            self._take_arguments(event)
        elif kind.startswith("response.output_item."):
            self._take_item(event, kind.endswith(".done"))
        elif kind == "error":
            self._fail(event.error or Fault(message=event.message, code=event.code))
        elif event.response is not None:
            yield from self._take_response(kind, event.response)
        elif event.error is not None:
            self._fail(event.error)

    def _take_arguments(self, event: Event) -> None:
        call = self._call(event.output_index or 0)
        self._grow(call, _text(event.delta))
        if isinstance(event.arguments, str):  # "done": what the pieces add up to
            call.arguments = []
            self._grow(call, event.arguments)

    def _take_item(self, event: Event, is_done: bool) -> None:
        item = event.item or Item()
        if item.type == "reasoning":
            self.progress += 1
            if is_done and item.encrypted_content:
                sealed = {"type": "reasoning", "id": item.id or "", "summary": item.summary or []}
                self._thoughts.append(sealed | {"encrypted_content": item.encrypted_content})
        elif item.type == "function_call":
            call = self._call(event.output_index or 0)
            call.call_id = item.call_id or call.call_id
            call.name = item.name or call.name
            if is_done and item.arguments:
                call.arguments = []
                self._grow(call, _text(item.arguments))
            if self._thoughts:
                call.echo, self._thoughts = self._thoughts, []

    def _take_response(self, kind: str, response: Response) -> Iterator[Piece]:
        self._model = response.model or self._model
        if response.usage is not None:
            self._input_tokens = max(0, response.usage.input_tokens or 0)
            self._output_tokens = max(0, response.usage.output_tokens or 0)
        if kind == "response.failed":
            self._fail(response.error or Fault())
        if kind == "response.completed":
            yield from self._end("stop")
            self.is_done = True
        elif kind == "response.incomplete":
            details = response.incomplete_details or Details()
            yield from self._end(INCOMPLETE.get(details.reason or "", "length"))
            self.is_done = True


def _text(value: Any) -> str:
    """Other events' deltas may be objects."""
    return value if isinstance(value, str) else ""


# -- the request -------------------------------------------------------------------------------------------------------


def encode_request(request: ModelRequest, accepts: Accepts) -> bytes:
    """The body of the POST: what is None or empty is left to the model, not sent."""
    body: dict[str, Any] = {
        "model": request.model,
        "input": [item for message in request.messages for item in _encode_message(message)],
        "stream": True,
        "store": False,  # the conversation is ours to keep, not the maker's
    }
    optional = {
        accepts.token_limit_field or MAX_TOKENS: request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "tools": [_encode_tool(tool) for tool in request.tools] or None,
        # Models that do not think refuse to be asked for sealed thoughts.
        "include": [SEALED] if accepts.thinks else None,
    }
    return encode(body | {name: value for name, value in optional.items() if value is not None})


def _encode_message(message: Message) -> Iterator[dict[str, Any]]:
    """One turn is one item, and one more for each call and what was thought before it."""
    if message.role == "tool":
        yield {"type": "function_call_output", "call_id": message.tool_call_id or "", "output": message.content}
        return
    thoughts = [
        use.echo.value if use.echo is not None and use.echo.source == Parser.dialect else []
        for use in message.tool_calls
    ]
    yield from thoughts[0] if thoughts else []  # they came before the text
    if message.content or not message.tool_calls:
        yield {"role": message.role, "content": message.content}
    for number, use in enumerate(message.tool_calls):
        yield from thoughts[number] if number else []
        arguments = json.dumps(use.arguments, ensure_ascii=False)
        yield {"type": "function_call", "call_id": use.call_id, "name": use.name, "arguments": arguments}


def _encode_tool(tool: ToolSpec) -> dict[str, Any]:
    # Strict is the default here, and takes only schemas that leave nothing open.
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": dict(tool.parameters),
        "strict": False,
    }


class Responses(Upstream):
    """`POST {base_url}/responses`, stateless. The dialect has no words for stop sequences and seeds."""

    takes = Accepts(stop=False, seed=False)
    parser = Parser
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
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"}
        super().__init__(
            name=name, base_url=base_url, session=session, headers=headers, accepts=accepts, timeouts=timeouts
        )

    def path(self, _: ModelRequest) -> str:
        return "/responses"

    def encode(self, request: ModelRequest, accepts: Accepts) -> bytes:
        return encode_request(request, accepts)
