"""The chat-completions dialect: what is asked, and a pure parser of the answer; refuses to know who the maker is.

Sources: https://platform.openai.com/docs/api-reference/chat/create and .../chat-streaming (the reference);
what other makers' servers of the same dialect send beside it is named at the branch that takes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import aiohttp
import msgspec

from tokenrelay.protocol.events import FinishReason
from tokenrelay.protocol.wire.sse import Frame
from tokenrelay.workers.conversation import Message, ModelRequest, Piece, ToolSpec, ToolUse
from tokenrelay.workers.providers.base import Accepts
from tokenrelay.workers.providers.faults import Fault
from tokenrelay.workers.providers.jsontext import UNREADABLE, decode, encode
from tokenrelay.workers.providers.parser import Call
from tokenrelay.workers.providers.parser import Parser as _Parser
from tokenrelay.workers.providers.upstream import BaseUrl, Capabilities, Upstream
from tokenrelay.workers.providers.upstream import (
    Timeouts as Timeouts,  # who makes a provider finds its timeouts beside it
)

MAX_TOKENS: Final = "max_tokens"
DONE: Final = "[DONE]"

FINISHES: Final[Mapping[str, FinishReason]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


# -- the wire, as far as it matters here -------------------------------------------------------------------------------
# Unknown fields are skipped by the decoder; every known one may be null or missing: some server somewhere does that.


class Function(msgspec.Struct, frozen=True):
    name: str | None = None
    arguments: str | None = None


class Fragment(msgspec.Struct, frozen=True):
    """Part of a tool call. The first of a call has its id and name, the others only more of the arguments' text."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None


class Change(msgspec.Struct, frozen=True):
    content: str | None = None
    refusal: str | None = None
    reasoning: Any = None  # what it thinks, for people to look at; some servers say `reasoning_content`
    reasoning_content: Any = None
    tool_calls: list[Fragment] | None = None
    function_call: Function | None = None  # what `tool_calls` was before parallel calls


class Choice(msgspec.Struct, frozen=True):
    index: int | None = None
    delta: Change | None = None
    finish_reason: str | None = None


class Usage(msgspec.Struct, frozen=True):
    """`prompt_tokens` counts cached ones too, `completion_tokens` those of thinking."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Chunk(msgspec.Struct, frozen=True):
    model: str | None = None
    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Fault | str | None = None


_CHUNK: Final = msgspec.json.Decoder(Chunk)


# -- the parser --------------------------------------------------------------------------------------------------------


class Parser(_Parser):
    """The body of one answer."""

    dialect = "chat_completions"

    def _take(self, frame: Frame) -> Iterator[Piece]:
        if frame.event not in ("message", "error"):
            return
        if frame.data == DONE:
            yield from self._close()
            if self._reason is None and self._calls:  # no finish reason was given
                yield from self._end("tool_calls")
            self.is_done = True
            return
        try:
            chunk = decode(_CHUNK, frame.data)
        except UNREADABLE:
            self._unreadable()
        fault = chunk.error or (Fault() if frame.event == "error" else None)
        if fault is not None:
            self._fail(fault)
        yield from self._take_chunk(chunk)

    def _take_chunk(self, chunk: Chunk) -> Iterator[Piece]:
        if chunk.model:
            self._model = chunk.model
        if chunk.usage is not None:  # the last one counts: some servers send a running sum with every chunk
            self._input_tokens = max(0, chunk.usage.prompt_tokens or 0)
            self._output_tokens = max(0, chunk.usage.completion_tokens or 0)
        for choice in chunk.choices or ():
            if choice.index or self._reason is not None:
                continue  # one answer was asked for, and it is over when it says so
            if choice.delta is not None:
                yield from self._take_change(choice.delta)
            if choice.finish_reason:
                yield from self._end(FINISHES.get(choice.finish_reason, "stop"))

    def _take_change(self, change: Change) -> Iterator[Piece]:
        if change.reasoning or change.reasoning_content:
            self.progress += 1
        if change.refusal:
            self._has_refused = True
        yield from self._write(change.content)
        yield from self._write(change.refusal)
        for fragment in change.tool_calls or ():
            self._take_fragment(fragment)
        if change.function_call is not None:
            self._take_fragment(Fragment(index=0, function=change.function_call))

    def _take_fragment(self, fragment: Fragment) -> None:
        call = self._call_of(fragment)
        function = fragment.function or Function()
        call.name = call.name or function.name or ""
        self._grow(call, function.arguments)

    def _call_of(self, fragment: Fragment) -> Call:
        """The call it belongs to. Servers that leave the index out, or always give 0, tell calls apart by id."""
        last = next(reversed(self._calls), -1)
        index = fragment.index if fragment.index is not None else max(last, 0)
        call = self._calls.get(index)
        if call is not None and fragment.id and call.call_id not in ("", fragment.id):
            same = (at for at, other in self._calls.items() if other.call_id == fragment.id)
            index = next(same, max(self._calls) + 1)
        call = self._call(index)
        call.call_id = call.call_id or fragment.id or ""
        return call


# -- the request -------------------------------------------------------------------------------------------------------


def encode_request(
    request: ModelRequest, token_limit_field: str = MAX_TOKENS, extra: Mapping[str, Any] | None = None
) -> bytes:
    """The body of the POST: what is None or empty is left to the model, not sent. `extra` is one maker's own fields."""
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [_encode_message(message) for message in request.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    optional = {
        token_limit_field: request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
        "stop": list(request.stop) or None,
        "tools": [_encode_tool(tool) for tool in request.tools] or None,
    }
    return encode(body | {name: value for name, value in optional.items() if value is not None} | dict(extra or {}))


def _encode_message(message: Message) -> dict[str, Any]:
    encoded: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.role == "tool":
        encoded["tool_call_id"] = message.tool_call_id or ""
    if message.tool_calls:
        encoded["content"] = message.content or None  # "required unless tool_calls […] is specified"
        encoded["tool_calls"] = [_encode_call(use) for use in message.tool_calls]
    return encoded


def _encode_call(use: ToolUse) -> dict[str, Any]:
    # The arguments are a string that holds JSON, as the model wrote it.
    function = {"name": use.name, "arguments": json.dumps(use.arguments, ensure_ascii=False)}
    return {"id": use.call_id, "type": "function", "function": function}


def _encode_tool(tool: ToolSpec) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}


class ChatCompletions(Upstream):
    """`POST {base_url}/chat/completions`: OpenAI, and vLLM, Ollama, llama.cpp and all others that speak like it.

    `extra` is what one maker takes beside the reference, for every request.
    """

    parser = Parser
    # https://platform.openai.com/docs/api-reference/debugging-requests
    request_id_header = "X-Client-Request-Id"

    def __init__(
        self,
        *,
        name: str,
        base_url: BaseUrl,
        session: aiohttp.ClientSession,
        api_key: str | None = None,
        accepts: Capabilities | None = None,
        timeouts: Timeouts | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        super().__init__(
            name=name, base_url=base_url, session=session, headers=headers, accepts=accepts, timeouts=timeouts
        )
        self._extra = extra

    def path(self, _: ModelRequest) -> str:
        return "/chat/completions"

    def encode(self, request: ModelRequest, accepts: Accepts) -> bytes:
        return encode_request(request, accepts.token_limit_field or MAX_TOKENS, self._extra)
