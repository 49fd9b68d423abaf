"""The Gemini dialect: a pure parser of the answer, and who is asked; refuses to know HTTP.

Sources: https://ai.google.dev/api/generate-content, .../gemini-api/docs/function-calling and .../thought-signatures.
What is asked is in `gemini_request`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from copy import copy
from itertools import pairwise
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import msgspec

from tokenrelay.protocol.events import FinishReason
from tokenrelay.protocol.wire.sse import Frame
from tokenrelay.workers.conversation import ModelRequest, Piece, ToolInput
from tokenrelay.workers.providers.base import Accepts, ProviderError
from tokenrelay.workers.providers.faults import Envelope, Fault, fault_in
from tokenrelay.workers.providers.gemini_request import UNSIGNED as UNSIGNED
from tokenrelay.workers.providers.gemini_request import encode_request
from tokenrelay.workers.providers.jsontext import UNREADABLE, decode
from tokenrelay.workers.providers.optional_fields import GEMINI, OptionalFields
from tokenrelay.workers.providers.parser import Parser as _Parser
from tokenrelay.workers.providers.parser import counted
from tokenrelay.workers.providers.upstream import BaseUrl, Capabilities, Timeouts, Upstream

BASE_URL: Final = "https://generativelanguage.googleapis.com"
VERSION: Final = "v1"
"""The stable one, which the provider's own SDK asks for; a row may name another, where a preview is."""

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
}
"""Reasons that mean there is no answer: whether to try again."""

MAX_ITEMS: Final = 4_096
"""Of one list in arguments that come in pieces."""

NO_CREDIT: Final = Fault(code="insufficient_quota", message="PUP_LIMITED_DISABLED")
"""What the finish reason of that name means: the account may not use the model any more."""


# -- the wire, as far as it matters here -------------------------------------------------------------------------------


class FunctionCall(msgspec.Struct, frozen=True, rename="camel"):
    """`partial_args` are the arguments as they are written, `will_continue` says that more of the same call comes."""

    id: str | None = None
    name: str | None = None
    args: Any = None
    partial_args: Any = None
    will_continue: bool | None = None


class Part(msgspec.Struct, frozen=True, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: FunctionCall | None = None


class Content(msgspec.Struct, frozen=True):
    parts: list[Part] | None = None


class Candidate(msgspec.Struct, frozen=True, rename="camel"):
    index: Any = None
    content: Content | None = None
    finish_reason: str | None = None
    finish_message: Any = None


class Feedback(msgspec.Struct, frozen=True, rename="camel"):
    block_reason: str | None = None


class Chunk(msgspec.Struct, frozen=True, rename="camel"):
    candidates: list[Candidate] | None = None
    prompt_feedback: Feedback | None = None
    usage_metadata: Any = None
    model_version: Any = None
    error: Any = None


_CHUNK: Final = msgspec.json.Decoder(Chunk)


# -- the parser --------------------------------------------------------------------------------------------------------


class Parser(_Parser):
    """The body of one answer. It has no last event: it ends when the body does, after a finish reason."""

    dialect = "gemini"
    max_event_bytes = 8 * 1024 * 1024

    def __init__(self, model: str, calls_before: int = 0, may_be_empty: bool = False) -> None:
        super().__init__(model, calls_before, may_be_empty)
        self._parts: list[dict[str, Any]] = []  # the turn; a text's pieces are joined at the end
        self._open: list[str] | None = (
            None  # the pieces of the text that goes on; None: the next one is a part of its own
        )
        self._is_partial = False  # more of the last call comes

    def _take(self, frame: Frame) -> Iterator[Piece]:
        try:
            chunk = decode(_CHUNK, frame.data)
        except UNREADABLE:
            self._unreadable()
        if chunk.error:
            self._fail(fault_in(Envelope(error=chunk.error)) or Fault())
        if chunk.model_version and isinstance(chunk.model_version, str):
            self._model = chunk.model_version
        if chunk.usage_metadata is not None:
            self._take_usage(chunk.usage_metadata)
        if chunk.prompt_feedback is not None and chunk.prompt_feedback.block_reason and not chunk.candidates:
            self._end("content_filter")
        for candidate in chunk.candidates or ():
            if candidate.index:
                continue  # one answer was asked for
            for part in (candidate.content or Content()).parts or ():
                yield from self._take_part(part)
            if candidate.finish_reason and candidate.finish_reason != "FINISH_REASON_UNSPECIFIED":
                self._take_finish(candidate.finish_reason, candidate.finish_message)

    def _take_usage(self, usage: Any) -> None:
        """Sums so far; one that a chunk leaves out is as it was. The prompt's count has cached tokens in it; output is
        billed "including thinking tokens", counted apart."""
        if (prompt := counted(usage, "promptTokenCount")) is not None:
            self._input_tokens = prompt + (counted(usage, "toolUsePromptTokenCount") or 0)
        written, thought = counted(usage, "candidatesTokenCount"), counted(usage, "thoughtsTokenCount")
        if written is not None or thought is not None:
            self._output_tokens = (written or 0) + (thought or 0)
        if thought is not None:
            self._reasoning = thought
        if (cached := counted(usage, "cachedContentTokenCount")) is not None:
            self._cached = cached

    def _take_part(self, part: Part) -> Iterator[Piece]:
        if part.function_call is not None:
            yield from self._take_call(part.function_call, part.thought_signature)
        elif part.thought:
            if part.thought_signature:  # thoughts that nobody signed are not wanted back
                self._keep(part)
            yield from self._think(part.text)
        else:
            if self._open is None or part.thought_signature:
                self._keep(part)
            elif part.text:  # the most frequent part of all
                self._open.append(part.text)
            yield from self._write(part.text)

    def _keep(self, part: Part) -> None:
        """Texts join until one is signed."""
        if self._open is None or part.thought:
            self._open = []
            self._parts.append({"pieces": self._open} | ({"thought": True} if part.thought else {}))
        self._open.append(part.text or "")
        if part.thought_signature:
            self._parts[-1]["thoughtSignature"] = part.thought_signature
            self._open = None

    def _take_call(self, said: FunctionCall, signature: str | None) -> Iterator[Piece]:
        """Calls come whole, parallel ones one part each; or their arguments in pieces, each with its place."""
        goes_on = self._is_partial and not said.name
        call = self._call(len(self._calls) - 1 if goes_on else len(self._calls))
        self._is_partial = bool(said.will_continue)
        if not goes_on:
            call.their_id, call.name = said.id or "", said.name or ""
            self._parts.append({"number": len(self._calls) - 1, "id": said.id})
            self._open = None
        if signature:
            self._parts[-1]["thoughtSignature"] = signature
        if said.args:
            text = said.args if isinstance(said.args, str) else json.dumps(said.args, ensure_ascii=False)
            self._grow(call, text)
        for partial in said.partial_args if isinstance(said.partial_args, list) else ():
            if isinstance(partial, dict):
                call.object = call.object if isinstance(call.object, dict) else {}
                _put(call.object, partial)
                self._count(len(str(partial)))
        yield from self._show(call)
        if isinstance(call.object, dict) and not self._is_partial:  # its text is known once it is complete
            yield ToolInput(call.call_id, "", json.dumps(call.object, ensure_ascii=False))

    def _take_finish(self, reason: str, message: Any) -> None:
        if reason == "PUP_LIMITED_DISABLED":
            self._fail(NO_CREDIT)
        if reason in FAILURES:
            raise ProviderError(
                "the model failed to write its answer",
                retryable=FAILURES[reason],
                said=Fault(code=reason, message=message),
            )
        if reason == "OTHER" and not self.has_written:
            self._unfinished("the model stopped before it wrote anything")
        self._end(FINISHES.get(reason, "stop"))

    def _turn(self) -> Any:
        called = list(self._calls.values())
        turn: list[dict[str, Any]] = []
        for part in self._parts:
            signature = {"thoughtSignature": part["thoughtSignature"]} if "thoughtSignature" in part else {}
            if "number" in part:
                turn.append({"call": called[part["number"]].call_id, "id": part["id"]} | signature)
            elif signature or any(part["pieces"]):
                thought = {"thought": True} if "thought" in part else {}
                turn.append({"text": "".join(part["pieces"])} | thought | signature)
        return turn


def _put(arguments: dict[str, Any], partial: dict[str, Any]) -> None:
    """One piece of the arguments at its place: `{"jsonPath": "$.city", "stringValue": "Zür"}`; text is joined."""
    path = str(partial.get("jsonPath") or "").removeprefix("$").replace("[", ".[").split(".")
    steps = [
        int(step[1:-1]) if step[:1] == "[" and step[1:-1].isdecimal() else step.strip("[]'\"") for step in path if step
    ]
    if not steps:
        return
    value = next((partial[name] for name in ("stringValue", "numberValue", "boolValue") if name in partial), None)
    if value is None and "nullValue" not in partial:
        return
    place: Any = arguments
    for step, after in pairwise(steps):
        place = _at(place, step, [] if isinstance(after, int) else {})
    before = _at(place, steps[-1], None)
    if isinstance(value, str) and isinstance(before, str):
        value = before + value
    if isinstance(place, dict):
        place[str(steps[-1])] = value
    elif isinstance(place, list) and isinstance(steps[-1], int) and steps[-1] < len(place):
        place[steps[-1]] = value


def _at(place: Any, step: int | str, default: Any) -> Any:
    """What is there, or `default`, which then is."""
    if isinstance(place, list) and isinstance(step, int) and step < MAX_ITEMS:
        while len(place) <= step:
            place.append(copy(default))
        return place[step]
    return place.setdefault(str(step), default) if isinstance(place, dict) else default


class Gemini(Upstream):
    """`POST {base_url}/{api_version}/models/{model}:streamGenerateContent?alt=sse`. `base_url` has no version in it."""

    takes = Accepts(parallel_tool_calls=False, strict=False, image_detail=False)
    parser = Parser
    refused_fields = GEMINI

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
        source: str = Parser.dialect,
    ) -> None:
        super().__init__(
            name=name,
            base_url=base_url,
            session=session,
            headers={"x-goog-api-key": api_key},  # not in the address, which others log
            accepts=accepts,
            timeouts=timeouts,
            source=source,
        )
        self._version = api_version

    def path(self, request: ModelRequest, accepts: Accepts) -> str:
        version = accepts.api_version or self._version
        return f"/{version}/models/{quote(request.model, safe='')}:streamGenerateContent?alt=sse"

    def encode(self, request: ModelRequest, accepts: Accepts, extras: OptionalFields) -> dict[str, Any]:
        return encode_request(request, accepts, extras)
