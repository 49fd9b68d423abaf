"""The chat-completions dialect: a pure parser of the answer, and who is asked; refuses to know who the provider is.

Source: https://platform.openai.com/docs/api-reference/chat-streaming (the reference); what other servers of the same
dialect send beside it is named at the branch that takes it. What is asked is in `chat_completions_request`.
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
from tokenrelay.workers.providers.chat_completions_request import encode_request
from tokenrelay.workers.providers.chat_completions_request import takes as takes_part
from tokenrelay.workers.providers.faults import Envelope, Fault, fault_in
from tokenrelay.workers.providers.jsontext import UNREADABLE, decode
from tokenrelay.workers.providers.optional_fields import CHAT_COMPLETIONS, OptionalFields
from tokenrelay.workers.providers.parser import Call, counted
from tokenrelay.workers.providers.parser import Parser as _Parser
from tokenrelay.workers.providers.upstream import BaseUrl, Capabilities, Upstream
from tokenrelay.workers.providers.upstream import (
    Timeouts as Timeouts,  # who makes a provider finds its timeouts beside it
)

FINISHES: Final[Mapping[str, FinishReason]] = {
    "stop": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",  # Mistral
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "safety": "content_filter",
    "sensitive": "content_filter",  # Z.ai
}
"""In small letters. Any other reason that is no failure is a stop."""

FAILURES: Final = frozenset(
    {
        "error",  # OpenRouter, Mistral
        "abort",  # SGLang, vLLM
        "aborted",
        "cancelled",
        "failed",
        "timeout",
        "network_error",  # Z.ai
        "insufficient_system_resource",  # DeepSeek
    }
)
"""Reasons that mean: this is not the whole answer."""


# -- the wire, as far as it matters here -------------------------------------------------------------------------------
# Unknown fields are skipped by the decoder; every known one may be null or missing: some server somewhere does that.


class Function(msgspec.Struct, frozen=True):
    name: str | None = None
    arguments: Any = None  # text; some servers send the object itself


class Fragment(msgspec.Struct, frozen=True):
    """Part of a tool call. The first of a call has its id and name, the others only more of the arguments' text.

    `extra_content` holds the thought's signature at Gemini's API of this dialect.
    """

    index: Any = None
    id: str | None = None
    function: Function | None = None
    extra_content: Any = None


class Change(msgspec.Struct, frozen=True):
    content: str | list[Any] | None = None  # Mistral has a list of parts
    refusal: str | None = None
    reasoning: Any = None  # what it thinks, for people to look at; some servers say `reasoning_content`
    reasoning_content: Any = None
    reasoning_details: Any = None  # OpenRouter: the same in the provider's own form
    extra_content: Any = None
    tool_calls: list[Fragment] | None = None
    function_call: Function | None = None  # what `tool_calls` was before parallel calls


class Choice(msgspec.Struct, frozen=True):
    index: Any = None
    delta: Change | None = None
    finish_reason: Any = None


class Chunk(msgspec.Struct, frozen=True):
    model: Any = None
    choices: list[Choice] | None = None
    usage: Any = None
    object: Any = None  # "error": then the fault is the chunk itself (vLLM)
    error: Any = None


_CHUNK: Final = msgspec.json.Decoder(Chunk)
_ENVELOPE: Final = msgspec.json.Decoder(Envelope)


# -- the parser --------------------------------------------------------------------------------------------------------


class Parser(_Parser):
    """The body of one answer."""

    dialect = "chat_completions"

    def __init__(self, model: str, calls_before: int = 0, may_be_empty: bool = False) -> None:
        super().__init__(model, calls_before, may_be_empty)
        self._thoughts: dict[str, list[str]] = {}  # by the field they came in, to go back in the same
        self._details: list[dict[str, Any]] = []
        self._has_moved = False  # a server gave several calls one index
        self._signatures: dict[str, Any] = {}  # `extra_content` by the call's index; "" is the message's own

    def _take(self, frame: Frame) -> Iterator[Piece]:
        try:
            chunk = decode(_CHUNK, frame.data)
        except UNREADABLE:
            if frame.event not in ("message", "error"):
                return  # an event of the server's own
            self._unreadable()
        if chunk.error or chunk.object == "error" or frame.event == "error":
            self._fail(fault_in(decode(_ENVELOPE, frame.data)) or Fault())
        if chunk.model and isinstance(chunk.model, str):
            self._model = chunk.model
        if chunk.usage is not None:  # the last one counts: some servers send a running sum with every chunk
            self._take_usage(chunk.usage)
        for choice in chunk.choices or ():
            if choice.index:
                continue  # one answer was asked for
            if choice.delta is not None:
                yield from self._take_change(choice.delta)
            if choice.finish_reason:
                self._take_finish(str(choice.finish_reason).lower())

    def _take_usage(self, usage: Any) -> None:
        self._input_tokens = counted(usage, "prompt_tokens") or 0
        self._output_tokens = counted(usage, "completion_tokens") or 0
        # Kimi and DeepSeek have fields of their own for what came from a cache.
        for path in (("prompt_tokens_details", "cached_tokens"), ("cached_tokens",), ("prompt_cache_hit_tokens",)):
            if (cached := counted(usage, *path)) is not None:
                self._cached = cached
                break
        self._cache_write = counted(usage, "prompt_tokens_details", "cache_write_tokens")
        self._reasoning = counted(usage, "completion_tokens_details", "reasoning_tokens")

    def _take_finish(self, reason: str) -> None:
        if reason in FAILURES:
            self._unfinished("the model's provider broke off in the middle of the answer")
        self._end(FINISHES.get(reason, "stop"))

    def _take_change(self, change: Change) -> Iterator[Piece]:
        if change.reasoning or change.reasoning_content or change.reasoning_details:
            yield from self._take_thought(change)
        if change.extra_content:
            self._signatures[""] = change.extra_content
        if isinstance(change.content, str):
            yield from self._write(change.content)
        elif change.content:
            yield from self._take_parts(change.content)
        if change.refusal:
            self._has_refused = True
            yield from self._write(change.refusal)
        for fragment in change.tool_calls or ():
            yield from self._take_fragment(fragment)
        if change.function_call is not None:
            yield from self._take_fragment(Fragment(index=0, function=change.function_call))

    def _take_parts(self, parts: list[Any]) -> Iterator[Piece]:
        """Mistral: `[{"type": "thinking", "thinking": [{"type": "text", "text": …}]}, {"type": "text", "text": …}]`."""
        for part in parts:
            if isinstance(part, str):
                yield from self._write(part)
            elif isinstance(part, dict) and part.get("type") in ("thinking", "reasoning"):
                yield from self._think(_text_in(part.get(part["type"])))
            elif isinstance(part, dict):
                yield from self._write(_text_in(part.get("text")))

    def _take_thought(self, change: Change) -> Iterator[Piece]:
        """Told once, though a server may send it under two names; kept in each to go back as it came."""
        said = ""
        for name, thought in (("reasoning_content", change.reasoning_content), ("reasoning", change.reasoning)):
            if thought:
                text = _text_in(thought)
                said = said or text
                self._turn_bytes += len(text)
                self._thoughts.setdefault(name, []).append(text)
        for detail in change.reasoning_details if isinstance(change.reasoning_details, list) else ():
            if isinstance(detail, dict):
                self._keep_detail(detail)
                if not change.reasoning and not change.reasoning_content:
                    said += _text_in(detail.get("text") or detail.get("summary"))
        yield from self._think(said)

    def _keep_detail(self, detail: dict[str, Any]) -> None:
        """Pieces of one detail have its type and its index: their texts are joined, the rest of them is the newest."""
        last = self._details[-1] if self._details else {}
        self._turn_bytes += sum(len(value) for value in detail.values() if isinstance(value, str))
        if not last or any(last.get(name) != detail.get(name) for name in ("type", "index")):
            self._details.append(dict(detail))
            return
        for name, value in detail.items():
            if name in ("text", "summary", "data") and isinstance(value, str) and isinstance(last.get(name), str):
                last[name] += value
            elif value is not None:
                last[name] = value

    def _take_fragment(self, fragment: Fragment) -> Iterator[Piece]:
        function = fragment.function or Function()
        index, call = self._call_of(fragment, function)
        call.name = call.name or function.name or ""
        if isinstance(function.arguments, str):
            self._grow(call, function.arguments)
        elif function.arguments is not None:
            call.object = function.arguments
            self._count(len(str(function.arguments)))
        if fragment.extra_content:
            self._signatures[str(index)] = fragment.extra_content
        yield from self._show(call)

    def _call_of(self, fragment: Fragment, function: Function) -> tuple[int, Call]:
        """The call it belongs to. Servers that leave the index out, or always give 0, tell calls apart by id or by
        name: a name after complete arguments opens a new call."""
        last = next(reversed(self._calls), -1)
        index = fragment.index if isinstance(fragment.index, int) else max(last, 0)
        call = self._calls.get(index)
        if call is not None and self._is_another(call, fragment, function):
            same = (at for at, other in self._calls.items() if fragment.id and other.their_id == fragment.id)
            known = next(same, None)
            if known is None or (function.name and self._calls[known].is_complete):
                known, self._has_moved = max(self._calls) + 1, True
            index = known
        elif self._has_moved and last > index and not fragment.id and not function.name:
            index = last  # more of the call that got an index of our own
        call = self._call(index)
        call.their_id = call.their_id or fragment.id or ""
        return index, call

    @staticmethod
    def _is_another(call: Call, fragment: Fragment, function: Function) -> bool:
        if fragment.id and call.their_id not in ("", fragment.id):
            return bool(function.name) or not call.name or call.is_complete
        if not function.name or not call.name:
            return False
        if function.name != call.name and not call.arguments and call.object is None:
            return True
        return call.is_complete and bool(function.arguments or function.name != call.name)

    def _turn(self) -> Any:
        """The fields of the assistant's message beside its text and its calls, and of each call."""
        fields: dict[str, Any] = {name: "".join(texts) for name, texts in self._thoughts.items()}
        if self._details:
            fields["reasoning_details"] = self._details
        if "" in self._signatures:
            fields["extra_content"] = self._signatures[""]
        calls = {
            call.call_id: self._signatures[str(index)]
            for index, call in self._calls.items()
            if str(index) in self._signatures
        }
        return {"fields": fields, "calls": calls} if fields or calls else None


def _text_in(value: Any) -> str:
    """The text of a thought or a part, whichever way a server wraps it."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(_text_in(item) for item in value)
    if isinstance(value, dict):
        return _text_in(value.get("text") or value.get("content") or "")
    return ""


class ChatCompletions(Upstream):
    """`POST {base_url}/chat/completions`: OpenAI, and vLLM, Ollama, llama.cpp and all others that speak like it.

    `extra` is what one provider takes beside the reference, for every request.
    """

    takes_part = staticmethod(takes_part)
    parser = Parser
    refused_fields = CHAT_COMPLETIONS
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
        source: str | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        super().__init__(
            name=name,
            base_url=base_url,
            session=session,
            headers=headers,
            accepts=accepts,
            timeouts=timeouts,
            source=source or name,
        )
        self._extra = extra

    def path(self, _: ModelRequest, __: Accepts) -> str:
        return "/chat/completions"

    def encode(self, request: ModelRequest, accepts: Accepts, extras: OptionalFields) -> dict[str, Any]:
        return encode_request(request, accepts, extras) | dict(self._extra or {})
