"""The Gemini dialect: what is asked, and a pure parser of the answer; refuses to know HTTP.

Sources: https://ai.google.dev/api/generate-content, .../gemini-api/docs/function-calling and .../thought-signatures.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import msgspec

from tokenrelay.protocol.events import FinishReason
from tokenrelay.protocol.wire.sse import Frame
from tokenrelay.workers.conversation import Finish, Message, ModelRequest, Piece, ToolSpec, ToolUse
from tokenrelay.workers.providers.base import Accepts, ProviderError
from tokenrelay.workers.providers.faults import Fault, fault_of
from tokenrelay.workers.providers.jsontext import UNREADABLE, decode, encode, parse_arguments
from tokenrelay.workers.providers.parser import Parser as _Parser
from tokenrelay.workers.providers.upstream import BaseUrl, Capabilities, Timeouts, Upstream

BASE_URL: Final = "https://generativelanguage.googleapis.com"
VERSION: Final = "v1"
"""The stable one, which the maker's own SDK asks for."""

MAX_TOKENS: Final = "maxOutputTokens"
MAX_RAW_BYTES: Final = 64 * 1024

GO_ON: Final = "Continue."
"""Newest models refuse a conversation that ends on their own turn: then somebody has to ask for more."""

UNSIGNED: Final = "skip_thought_signature_validator"
"""What the reference says to sign a call with that another model made, or nobody did."""

FINISHES: Final[Mapping[str, FinishReason]] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "ESCALATION": "content_filter",
}
"""Any other reason that is not a failure is a stop."""

FAILURES: Final[Mapping[str, bool]] = {
    "MALFORMED_FUNCTION_CALL": True,
    "MALFORMED_RESPONSE": True,
    "UNEXPECTED_TOOL_CALL": True,
    "TOO_MANY_TOOL_CALLS": True,
    "MISSING_THOUGHT_SIGNATURE": False,
    "PUP_LIMITED_DISABLED": False,
}
"""Reasons that mean there is no answer: whether to try again."""


# -- the wire, as far as it matters here -------------------------------------------------------------------------------


class FunctionCall(msgspec.Struct, frozen=True):
    id: str | None = None
    name: str | None = None
    args: Any = None


class Part(msgspec.Struct, frozen=True, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: FunctionCall | None = None


class Content(msgspec.Struct, frozen=True):
    parts: list[Part] | None = None


class Candidate(msgspec.Struct, frozen=True, rename="camel"):
    index: int | None = None
    content: Content | None = None
    finish_reason: str | None = None


class Feedback(msgspec.Struct, frozen=True, rename="camel"):
    block_reason: str | None = None


class Usage(msgspec.Struct, frozen=True, rename="camel"):
    """The prompt's count has cached tokens in it. Output is billed "including thinking tokens", counted apart."""

    prompt_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None


class Chunk(msgspec.Struct, frozen=True, rename="camel"):
    candidates: list[Candidate] | None = None
    prompt_feedback: Feedback | None = None
    usage_metadata: Usage | None = None
    model_version: str | None = None
    error: Fault | str | None = None


_CHUNK: Final = msgspec.json.Decoder(Chunk)


# -- the parser --------------------------------------------------------------------------------------------------------


class Parser(_Parser):
    """The body of one answer. It has no last event: it ends when the body does, after a finish reason."""

    dialect = "gemini"
    max_event_bytes = 8 * 1024 * 1024

    def __init__(self, model: str, calls_before: int = 0) -> None:
        super().__init__(model, calls_before)
        self._raw = b""  # from the last `data:` on: an error may come as bare JSON, in no frame at all

    def feed(self, data: bytes) -> Iterator[Piece]:
        at = data.rfind(b"data:")
        self._raw = data[at:] if at >= 0 else (self._raw + data)[-MAX_RAW_BYTES:]
        yield from super().feed(data)

    def finish(self) -> Finish:
        if not self.is_whole and (fault := _bare_fault(self._raw)) is not None:
            self._fail(fault)
        return super().finish()

    def _take(self, frame: Frame) -> Iterator[Piece]:
        try:
            chunk = decode(_CHUNK, frame.data)
        except UNREADABLE:
            self._unreadable()
        if chunk.error is not None:
            self._fail(chunk.error)
        self._model = chunk.model_version or self._model
        if chunk.usage_metadata is not None:
            self._take_usage(chunk.usage_metadata)
        if chunk.prompt_feedback is not None and chunk.prompt_feedback.block_reason and not chunk.candidates:
            yield from self._end("content_filter")
        for candidate in chunk.candidates or ():
            if candidate.index or self._reason is not None:
                continue  # one answer was asked for, and it is over when it says so
            for part in (candidate.content or Content()).parts or ():
                yield from self._take_part(part)
            if candidate.finish_reason and candidate.finish_reason != "FINISH_REASON_UNSPECIFIED":
                yield from self._take_finish(candidate.finish_reason)

    def _take_usage(self, usage: Usage) -> None:
        """Sums so far; one that a chunk leaves out is as it was."""
        if usage.prompt_token_count is not None:
            self._input_tokens = max(0, usage.prompt_token_count + (usage.tool_use_prompt_token_count or 0))
        if usage.candidates_token_count is not None or usage.thoughts_token_count is not None:
            self._output_tokens = max(0, (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0))

    def _take_part(self, part: Part) -> Iterator[Piece]:
        if part.thought:
            self.progress += 1
        elif part.function_call is not None:
            self._take_call(part.function_call, part.thought_signature)
        else:
            yield from self._write(part.text)

    def _take_call(self, said: FunctionCall, signature: str | None) -> None:
        """Calls come whole, parallel ones one part each; only the first of them is signed."""
        call = self._call(len(self._calls))
        call.call_id, call.name = said.id or "", said.name or ""
        arguments = json.dumps(said.args) if said.args else ""
        self._count(len(arguments))
        call.object = parse_arguments(arguments) if isinstance(said.args or {}, dict) else None
        if call.object is None:
            call.arguments = ["?"]  # no object: to be refused with the rest at the end
        call.echo = {"id": said.id, "signature": signature}

    def _take_finish(self, reason: str) -> Iterator[Piece]:
        if reason in FAILURES:
            raise ProviderError("the model failed to write its answer", retryable=FAILURES[reason])
        if reason == "OTHER" and not self.has_written:
            raise ProviderError("the model stopped before it wrote anything", retryable=True)
        yield from self._end(FINISHES.get(reason, "stop"))


def _bare_fault(raw: bytes) -> Fault | str | None:
    """The error in pretty-printed JSON after the last line of the last frame."""
    framed = raw.rfind(b"data:")
    bare = raw if framed < 0 else raw[framed:].replace(b"\r", b"\n").partition(b"\n")[2]
    at = bare.find(b"{")
    return None if at < 0 else fault_of(bare[at:].rstrip(b" \r\n]"))


# -- the request -------------------------------------------------------------------------------------------------------


def encode_request(request: ModelRequest, accepts: Accepts) -> bytes:
    """The body of the POST: what is None or empty is left to the model, not sent."""
    body: dict[str, Any] = {"contents": encode_turns(request.messages)}
    system = [turn.content for turn in request.messages if turn.role in ("system", "developer") and turn.content]
    if system:
        body["systemInstruction"] = {"parts": [{"text": text} for text in system]}
    if request.tools:
        body["tools"] = [{"functionDeclarations": [_encode_tool(tool) for tool in request.tools]}]
    optional = {
        accepts.token_limit_field or MAX_TOKENS: request.max_tokens,
        "temperature": request.temperature,
        "topP": request.top_p,
        "stopSequences": list(request.stop) or None,
        "seed": request.seed,
    }
    if settings := {name: value for name, value in optional.items() if value is not None}:
        body["generationConfig"] = settings
    return encode(body)


def encode_turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Turns of one side that follow each other become one: as many results as there were calls, in one turn."""
    uses = {use.call_id: use for message in messages for use in message.tool_calls}
    turns: list[dict[str, Any]] = []
    for message in messages:
        if message.role in ("system", "developer"):
            continue
        role = "model" if message.role == "assistant" else "user"
        parts = list(_encode_parts(message, uses))
        if turns and turns[-1]["role"] == role:
            turns[-1]["parts"] += parts
        elif parts:
            turns.append({"role": role, "parts": parts})
    if turns and turns[-1]["role"] == "model":
        turns.append({"role": "user", "parts": [{"text": GO_ON}]})
    return turns


def _encode_parts(message: Message, uses: Mapping[str, ToolUse]) -> Iterator[dict[str, Any]]:
    if message.role == "tool":
        call_id = message.tool_call_id or ""
        use = uses.get(call_id)
        result = {"name": call_id if use is None else use.name, "response": {"output": message.content}}
        yield {"functionResponse": _with_id(use, call_id) | result}
        return
    if message.content:
        yield {"text": message.content}
    is_signed = any(_echo(use).get("signature") for use in message.tool_calls)
    for number, use in enumerate(message.tool_calls):
        part: dict[str, Any] = {"functionCall": _with_id(use, use.call_id) | {"name": use.name, "args": use.arguments}}
        if signature := _echo(use).get("signature"):
            part["thoughtSignature"] = signature
        elif not number and not is_signed:
            part["thoughtSignature"] = UNSIGNED
        yield part


def _echo(use: ToolUse) -> dict[str, Any]:
    return dict(use.echo.value) if use.echo is not None and use.echo.source == Parser.dialect else {}


def _with_id(use: ToolUse | None, call_id: str) -> dict[str, Any]:
    """The id, unless the maker gave none and we made it up."""
    is_made_up = use is not None and "id" in _echo(use) and not _echo(use)["id"]
    return {} if is_made_up else {"id": call_id}


def _encode_tool(tool: ToolSpec) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "parametersJsonSchema": dict(tool.parameters)}


class Gemini(Upstream):
    """`POST {base_url}/{api_version}/models/{model}:streamGenerateContent?alt=sse`. `base_url` has no version in it."""

    parser = Parser

    def __init__(
        self,
        *,
        api_key: str,
        session: aiohttp.ClientSession,
        name: str = "Google",
        base_url: BaseUrl = BASE_URL,
        accepts: Capabilities | None = None,
        timeouts: Timeouts | None = None,
        api_version: str = VERSION,
    ) -> None:
        headers = {"x-goog-api-key": api_key}  # not in the address, which others log
        super().__init__(
            name=name, base_url=base_url, session=session, headers=headers, accepts=accepts, timeouts=timeouts
        )
        self._version = api_version

    def path(self, request: ModelRequest) -> str:
        return f"/{self._version}/models/{quote(request.model, safe='')}:streamGenerateContent?alt=sse"

    def encode(self, request: ModelRequest, accepts: Accepts) -> bytes:
        return encode_request(request, accepts)
