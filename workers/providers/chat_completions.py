"""The chat-completions dialect: one streamed POST, and a pure parser of its answer; refuses to know who the maker is.

Sources: https://platform.openai.com/docs/api-reference/chat/create and .../chat-streaming (the reference);
what other makers' servers of the same dialect send beside it is named at the branch that takes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any, Final, Literal, TypeAlias

import aiohttp
import msgspec
import structlog

from protocol.events import FinishReason
from protocol.sse import Decoder, Frame, FrameTooLarge
from workers.providers.base import Delta, Finish, Message, ModelRequest, Piece, ProviderError, ToolSpec, ToolUse

TokenLimitField: TypeAlias = Literal["max_tokens", "max_completion_tokens"]
BaseUrl: TypeAlias = str | Callable[[], Awaitable[str]]

MAX_TOKENS: Final = "max_tokens"
DONE: Final = "[DONE]"
MAX_ERROR_BYTES: Final = 64 * 1024
MAX_RETRY_AFTER_S: Final = 86_400.0
MAX_TOOL_CALLS: Final = 128
"""The reference allows a request this many tools; more calls than that in one round is a model running wild."""

MAX_TOOL_BYTES: Final = 1024 * 1024
TAIL_S: Final = 5.0
"""After the finish reason only the usage is missing: worth a moment, not the patience meant for a model that thinks."""

DRAIN_S: Final = 0.05
"""After `[DONE]` the HTTP body's own end is due; reading it lets the connection, and its TLS, be used again."""

FINISHES: Final[Mapping[str, FinishReason]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}

UNREADABLE: Final = (msgspec.DecodeError, ValueError, RecursionError)
"""What decoders raise for text that is not what it should be."""

log = structlog.get_logger()


class Timeouts(msgspec.Struct, frozen=True):
    """Seconds. `first_token_s` runs from the request; thinking that can be seen starts either wait anew."""

    connect_s: float = 10.0
    first_token_s: float = 120.0
    between_tokens_s: float = 60.0


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
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Fault(msgspec.Struct, frozen=True):
    """Why it failed. `code` is a word, an HTTP status (llama.cpp, OpenRouter) or null; `message` may quote prompts."""

    message: Any = None
    type: Any = None
    code: Any = None


class Chunk(msgspec.Struct, frozen=True):
    model: str | None = None
    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Fault | str | None = None


_CHUNK: Final = msgspec.json.Decoder(Chunk)


# -- failures ----------------------------------------------------------------------------------------------------------

_TOO_LONG: Final = "the conversation is longer than the model's context"

_WORDS: Final[Mapping[str, tuple[str, str, bool]]] = {
    "context_length_exceeded": ("PROVIDER_ERROR", _TOO_LONG, False),
    "exceed_context_size_error": ("PROVIDER_ERROR", _TOO_LONG, False),  # llama.cpp
    "rate_limit_exceeded": ("RATE_LIMIT", "the model's maker takes no more requests for now", True),
    "rate_limit_error": ("RATE_LIMIT", "the model's maker takes no more requests for now", True),
    "invalid_request_error": ("PROVIDER_ERROR", "the model's maker did not accept the request", False),
    "content_filter": ("PROVIDER_ERROR", "the model's maker refused to answer this", False),
    "content_policy_violation": ("PROVIDER_ERROR", "the model's maker refused to answer this", False),
}
"""What a fault's `code` or `type` means where the status alone does not say it: (our code, sentence, retryable)."""


def failure(status: int, body: bytes = b"", retry_after: str | None = None, now_s: float = 0.0) -> ProviderError:
    """What an HTTP status other than 200 means. `now_s` is Unix time, needed when `retry_after` is a date."""
    wait_s = parse_retry_after(retry_after, now_s)
    if status in (400, 413, 422) and (known := _known(_fault_of(body))) is not None:
        return ProviderError(known[1], code=known[0], retryable=known[2], retry_after_s=wait_s)
    return _by_status(status, wait_s)


def _by_status(status: int, retry_after_s: float | None = None) -> ProviderError:
    if status == 429:
        message = "the model's maker takes no more requests for now"
        return ProviderError(message, code="RATE_LIMIT", retryable=True, retry_after_s=retry_after_s)
    if status in (401, 403):
        return ProviderError("the model's maker did not accept this server's credentials", retryable=False)
    if status == 404:
        return ProviderError("the model's maker does not know this model", retryable=False)
    if status == 408:
        return ProviderError("the model's maker gave up waiting", code="TIMEOUT", retryable=True)
    if status == 409 or status >= 500:
        return ProviderError("the model's maker failed to answer", retryable=True, retry_after_s=retry_after_s)
    return ProviderError("the model's maker did not accept the request", retryable=False)


def parse_retry_after(value: str | None, now_s: float) -> float | None:
    """Seconds to wait (RFC 9110 section 10.2.3: seconds or an HTTP date); None when it says nothing usable."""
    if value is None:
        return None
    try:
        wait_s = float(value)
    except ValueError:
        try:
            wait_s = email.utils.parsedate_to_datetime(value).timestamp() - now_s
        except (ValueError, OverflowError):
            return None
    return min(max(0.0, wait_s), MAX_RETRY_AFTER_S) if math.isfinite(wait_s) else None


def _fault_of(body: bytes) -> Fault | str | None:
    try:
        return _CHUNK.decode(body).error
    except UNREADABLE:
        return None


def _words(fault: Fault | str | None) -> tuple[str, ...]:
    """Its `code` and `type`, as far as they are words. Never its message, which may quote the prompt or a key."""
    if not isinstance(fault, Fault):
        return ()
    return tuple(word[:80] for word in (fault.code, fault.type) if isinstance(word, str) and word)


def _known(fault: Fault | str | None) -> tuple[str, str, bool] | None:
    return next((_WORDS[word] for word in _words(fault) if word in _WORDS), None)


def _mid_stream_failure(fault: Fault | str) -> ProviderError:
    known = _known(fault)
    if known is not None:
        return ProviderError(known[1], code=known[0], retryable=known[2])
    if isinstance(fault, Fault):
        status = str(fault.code)
        if status.isascii() and status.isdigit() and 400 <= int(status) <= 599:
            return _by_status(int(status))
    return ProviderError("the model's maker failed in the middle of the answer", retryable=True)


# -- text --------------------------------------------------------------------------------------------------------------


def _whole(text: str) -> str:
    """Halves of a surrogate pair that belong together joined, lone ones replaced: only then is there a UTF-8 for it."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class _Text:
    """Text in deltas. Servers that count in UTF-16 cut a pair in two: its first half waits here for the second."""

    def __init__(self) -> None:
        self._half = ""  # "" or one high surrogate

    def take(self, text: str) -> str:
        if not self._half and text.isascii():
            return text
        text = self._half + text
        self._half = text[-1] if "\ud800" <= text[-1] <= "\udbff" else ""
        return _whole(text[:-1] if self._half else text)

    def rest(self) -> str:
        rest, self._half = _whole(self._half), ""
        return rest


def _decode(data: str) -> Chunk:
    """Raises what is in `UNREADABLE`."""
    try:
        return _CHUNK.decode(data)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        # Among other things a lone surrogate, which JSON may escape (RFC 8259 section 8.2) and msgspec does not take.
        return msgspec.convert(json.loads(data), Chunk)


# -- the parser --------------------------------------------------------------------------------------------------------


class _Call:
    """A tool call under construction."""

    def __init__(self, call_id: str) -> None:
        self.call_id = call_id  # "" until it has come
        self.name = ""
        self.arguments: list[str] = []

    def add(self, function: Function) -> int:
        """How many characters it grew by."""
        self.name = self.name or function.name or ""
        if function.arguments:
            self.arguments.append(function.arguments)
        return len(function.arguments or "")


class Parser:
    """Bytes of the body in any chunking → pieces. Pure: no socket, no clock.

    ``feed`` yields pieces as they are complete and raises `ProviderError` where the stream says so, after what came
    before it. ``finish`` gives the last piece once ``is_done`` or the body has ended.
    """

    def __init__(self, model: str) -> None:
        self.progress = 0  # how often the model was seen at work: text, thinking, a tool call; not keep-alives
        self.has_written = False  # text or a tool call has come
        self.is_done = False  # `[DONE]` has come; what follows is not looked at
        self._decoder = Decoder()
        self._text = _Text()
        self._model = model
        self._calls: dict[int, _Call] = {}  # by index, in the order they began
        self._tool_bytes = 0
        self._has_refused = False
        self._reason: FinishReason | None = None  # None until the stream has said one
        self._input_tokens = 0
        self._output_tokens = 0

    @property
    def is_whole(self) -> bool:
        """The answer is complete, though its usage may still come."""
        return self.is_done or self._reason is not None

    def feed(self, data: bytes) -> Iterator[Piece]:
        """Every piece that `data` completes. Raises ProviderError."""
        try:
            frames = self._decoder.feed(data)
        except FrameTooLarge:
            raise ProviderError("the model's maker sent an event that is too large", retryable=False) from None
        for frame in frames:
            if self.is_done:
                return
            yield from self._take(frame)

    def finish(self) -> Finish:
        """The round's end. Raises ProviderError when the body ended before the answer did."""
        if not self.is_whole:
            raise ProviderError("the model's maker broke off in the middle of the answer", retryable=True)
        reason = self._reason or "stop"
        if self._has_refused:
            reason = "content_filter"
        elif self._calls and reason == "stop":  # some servers finish a round of tool calls so
            reason = "tool_calls"
        return Finish(reason, self._input_tokens, self._output_tokens, self._model)

    def _take(self, frame: Frame) -> Iterator[Piece]:
        if frame.event not in ("message", "error"):
            return
        if frame.data == DONE:
            yield from self._close()
            self.is_done = True
            return
        try:
            chunk = _decode(frame.data)
        except UNREADABLE:
            raise ProviderError("the model's maker sent something that cannot be read", retryable=True) from None
        fault = chunk.error or (Fault() if frame.event == "error" else None)
        if fault is not None:
            log.warning("upstream_failed", words=_words(fault))
            raise _mid_stream_failure(fault)
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
                yield from self._close()
                self._reason = FINISHES.get(choice.finish_reason, "stop")
                yield from self._tool_uses()

    def _take_change(self, change: Change) -> Iterator[Piece]:
        if change.reasoning or change.reasoning_content:
            self.progress += 1
        if change.refusal:
            self._has_refused = True
        for text in (change.content, change.refusal):
            if text:
                self._mark()
                if text := self._text.take(text):
                    yield Delta(text)
        for fragment in change.tool_calls or ():
            self._take_fragment(fragment)
        if change.function_call is not None:
            self._take_fragment(Fragment(index=0, function=change.function_call))

    def _take_fragment(self, fragment: Fragment) -> None:
        self._mark()
        call = self._call_of(fragment)
        self._tool_bytes += call.add(fragment.function or Function())
        if len(self._calls) > MAX_TOOL_CALLS or self._tool_bytes > MAX_TOOL_BYTES:
            raise ProviderError("the model's tool calls are too large", retryable=False)

    def _call_of(self, fragment: Fragment) -> _Call:
        """The call it belongs to. Servers that leave the index out, or always give 0, tell calls apart by id."""
        last = next(reversed(self._calls), -1)
        index = fragment.index if fragment.index is not None else max(last, 0)
        call = self._calls.get(index)
        if call is not None and fragment.id and call.call_id not in ("", fragment.id):
            same = (at for at, other in self._calls.items() if other.call_id == fragment.id)
            index = next(same, max(self._calls) + 1)
            call = self._calls.get(index)
        if call is None:
            call = self._calls[index] = _Call("")
        call.call_id = call.call_id or fragment.id or ""
        return call

    def _mark(self) -> None:
        self.progress += 1
        self.has_written = True

    def _close(self) -> Iterator[Delta]:
        if rest := self._text.rest():
            yield Delta(rest)

    def _tool_uses(self) -> Iterator[ToolUse]:
        if self._reason == "length":
            return  # the last call was cut; a call with half its arguments is none
        for number, call in enumerate(self._calls.values()):
            arguments = _parse_arguments("".join(call.arguments))
            if arguments is None or not call.name:
                raise ProviderError("the model wrote a tool call that cannot be read", retryable=True)
            yield ToolUse(_whole(call.call_id) or f"call_{number}", _whole(call.name), arguments)


def _parse_arguments(text: str) -> dict[str, Any] | None:
    """The argument object; no text at all is an empty one. None when it is no JSON object."""
    if not text.strip():
        return {}
    try:
        value = json.loads(_whole(text), parse_int=_bounded, parse_constant=_no_number)
        if "\\u" in text:  # an escape may have hidden half of a pair
            value = json.loads(_whole(json.dumps(value, ensure_ascii=False)))
    except UNREADABLE:
        return None
    return value if isinstance(value, dict) else None


def _bounded(digits: str) -> int | float:
    """JSON's numbers have no end, those of msgpack end at 64 bits."""
    number = float(digits)
    return int(digits) if abs(number) < 2**63 else number


def _no_number(constant: str) -> None:
    """JSON knows no NaN and no infinity, Python's decoder does."""
    raise ValueError(constant)


# -- the request -------------------------------------------------------------------------------------------------------


def encode_request(
    request: ModelRequest, token_limit_field: TokenLimitField = MAX_TOKENS, extra: Mapping[str, Any] | None = None
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
    body |= {name: value for name, value in optional.items() if value is not None} | dict(extra or {})
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        return _whole(json.dumps(body, ensure_ascii=False)).encode()


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


# -- the call ----------------------------------------------------------------------------------------------------------


class ChatCompletions:
    """A `Provider` for one maker. `base_url` is what the maker's own SDK takes, or a coroutine function that gives it.

    `session` is shared and stays its owner's; its own timeouts are not used, those given here are.
    """

    def __init__(
        self,
        *,
        name: str,
        base_url: BaseUrl,
        session: aiohttp.ClientSession,
        api_key: str | None = None,
        timeouts: Timeouts | None = None,
        token_limit_field: TokenLimitField = MAX_TOKENS,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self._base_url = base_url
        self._session = session
        self._timeouts = timeouts or Timeouts()
        self._token_limit_field = token_limit_field
        self._extra = extra
        # Compression would hold tokens back until a block is full.
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream",
            "Accept-Encoding": "identity",
            **({"Authorization": f"Bearer {api_key}"} if api_key else {}),
        }

    def __repr__(self) -> str:
        return f"<ChatCompletions {self.name}>"

    async def stream(self, request: ModelRequest) -> AsyncIterator[Piece]:
        parser = Parser(request.model)
        base_url = self._base_url if isinstance(self._base_url, str) else await self._base_url()
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        answer = await self._ask(base_url.rstrip("/") + "/chat/completions", request)
        try:
            silent_s = loop.time() - asked_at  # since the model was last seen at work; only waiting counts
            while not parser.is_done:
                waits_from, progress = loop.time(), parser.progress
                try:
                    data = await self._read(answer, parser, silent_s)
                except ProviderError:
                    if parser.is_whole:
                        break  # only the usage is lost
                    raise
                silent_s += loop.time() - waits_from
                if not data:
                    break
                for piece in parser.feed(data):
                    yield piece
                if parser.progress != progress:
                    silent_s = 0.0
            finish = parser.finish()
            if parser.is_done:
                await _drain(answer)
        finally:
            answer.release()  # a connection whose body has not ended is closed by this, any other kept
        yield finish

    async def aclose(self) -> None:
        """Holds nothing: the session is its owner's."""

    async def _ask(self, url: str, request: ModelRequest) -> aiohttp.ClientResponse:
        """The answer once its head says 200. Raises ProviderError."""
        body = encode_request(request, self._token_limit_field, self._extra)
        try:
            async with asyncio.timeout(self._timeouts.first_token_s):
                answer = await self._post(url, body)
                if answer.status == 200:
                    return answer
                try:
                    raise await self._refusal(answer)
                finally:
                    answer.release()
        except aiohttp.ConnectionTimeoutError:
            raise ProviderError(
                "the model's maker could not be reached in time", code="TIMEOUT", retryable=True
            ) from None
        except TimeoutError:
            raise self._too_slow(has_written=False) from None
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
            raise ProviderError("the address of the model's maker is not valid", retryable=False) from None
        except (aiohttp.ClientError, OSError) as error:
            log.warning("upstream_unreachable", provider=self.name, error=type(error).__name__)
            raise ProviderError("the model's maker cannot be reached", retryable=True) from None

    async def _post(self, url: str, body: bytes) -> aiohttp.ClientResponse:
        limits = aiohttp.ClientTimeout(total=None, connect=self._timeouts.connect_s)

        async def post() -> aiohttp.ClientResponse:
            # A redirected POST becomes a GET, and the key would go along.
            return await self._session.post(
                url, data=body, headers=self._headers, timeout=limits, allow_redirects=False
            )

        try:
            return await post()
        except aiohttp.ServerDisconnectedError:
            # Most likely a kept connection that the other side closed in the same moment: no byte of an answer came.
            return await post()

    async def _refusal(self, answer: aiohttp.ClientResponse) -> ProviderError:
        body = b""
        with contextlib.suppress(aiohttp.ClientError):
            while len(body) < MAX_ERROR_BYTES and (more := await answer.content.readany()):
                body += more
        log.warning("upstream_refused", provider=self.name, status=answer.status, words=_words(_fault_of(body)))
        return failure(answer.status, body, answer.headers.get("Retry-After"), time.time())

    async def _read(self, answer: aiohttp.ClientResponse, parser: Parser, silent_s: float) -> bytes:
        """What has come, or b"" at the end. Raises ProviderError when it takes too long or the connection breaks."""
        limits = self._timeouts
        patience_s = limits.between_tokens_s if parser.has_written else limits.first_token_s
        patience_s -= silent_s
        if parser.is_whole:
            patience_s = min(TAIL_S, patience_s)
        try:
            async with asyncio.timeout(patience_s):
                return await answer.content.readany()
        except TimeoutError:
            raise self._too_slow(parser.has_written) from None
        except (aiohttp.ClientError, OSError) as error:
            log.warning("upstream_broke_off", provider=self.name, error=type(error).__name__)
            raise ProviderError("the connection to the model's maker broke in mid-answer", retryable=True) from None

    def _too_slow(self, has_written: bool) -> ProviderError:
        message = "fell silent in the middle of its answer" if has_written else "did not begin to answer in time"
        return ProviderError(f"the model {message}", code="TIMEOUT", retryable=True)


async def _drain(answer: aiohttp.ClientResponse) -> None:
    with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
        async with asyncio.timeout(DRAIN_S):
            while not answer.content.at_eof():
                await answer.content.readany()
