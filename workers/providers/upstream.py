"""The one HTTP call behind every dialect: asks, reads with deadlines, closes; refuses to know what is said."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Final, TypeAlias

import aiohttp
import msgspec
import structlog

from tokenrelay.workers.conversation import Echo, Finish, ModelRequest, Part, Piece, Progress, ToolInput, ToolUse
from tokenrelay.workers.providers.base import OPTIONAL, Accepts, ProviderError, Reason, fitted, left_out
from tokenrelay.workers.providers.faults import Fault, failure, fault_of, quotable, sentence_of, words
from tokenrelay.workers.providers.jsontext import encode
from tokenrelay.workers.providers.names import Names
from tokenrelay.workers.providers.optional_fields import STATUSES, OptionalFields, RefusedField, refused_field, without
from tokenrelay.workers.providers.parser import Parser
from tokenrelay.workers.providers.parts import checked, has_bytes

BaseUrl: TypeAlias = str | Callable[[], Awaitable[str]]
Capabilities: TypeAlias = Accepts | Callable[[str], Accepts]
"""What all models of a provider take, or a function that says it for one model, by its upstream id."""

MAX_ERROR_BYTES: Final = 64 * 1024

TAIL_S: Final = 5.0
"""After the finish reason only the usage is missing: worth a moment, not the wait meant for a model that thinks."""

DRAIN_S: Final = 0.05
"""After the stream's last event the HTTP body's own end is due; reading it lets the connection, and its TLS, be used
again."""

THINKING_WAITS: Final = 2.0
"""How much longer a model that thinks may take until its first piece: some do not say that they do."""

MAX_REMEMBERED: Final = 256
"""Models of which it is known what their servers refuse."""

RESERVED: Final = frozenset(
    {"model", "messages", "input", "contents", "stream", "tools", "systemInstruction", "system"}
)
"""What a row's `extra` never overrides."""

PROGRESS: Final = Progress()

log = structlog.get_logger()


class Timeouts(msgspec.Struct, frozen=True):
    """Seconds. `first_token_s` runs from the request; thinking that can be seen starts either wait anew."""

    connect_s: float = 10.0
    first_token_s: float = 120.0
    between_tokens_s: float = 60.0


class Upstream:
    """A `Provider` for one provider; a dialect is a subclass that fills in the four blanks below.

    `base_url` is what the provider's own SDK takes, or a coroutine function that gives it. `session` is shared and
    stays its owner's; its own timeouts are not used, those given here are. `headers` may hold a key: they are never
    shown.
    """

    takes: ClassVar[Accepts] = Accepts()
    """What the dialect has words for at all; no model of it takes more."""

    parser: ClassVar[type[Parser]]

    refused_fields: ClassVar[tuple[RefusedField, ...]] = ()
    """What is not asked again once a server has refused it."""

    request_id_header: ClassVar[str] = "X-Request-Id"
    """Where the caller's id goes; not every provider looks at one, none minds it."""

    def __init__(
        self,
        *,
        name: str,
        base_url: BaseUrl,
        session: aiohttp.ClientSession,
        headers: Mapping[str, str],
        accepts: Capabilities | None = None,
        timeouts: Timeouts | None = None,
        source: str = "",
    ) -> None:
        self.name = name
        self.source = source or name  # of whose turns an echo may come back here
        self._remembered: dict[str, OptionalFields] = {}  # by upstream id: what its server refused is not asked again
        self._base_url = base_url
        self._session = session
        self._timeouts = timeouts or Timeouts()
        self._accepts = accepts or Accepts()
        # Compression would hold tokens back until a block is full.
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream",
            "Accept-Encoding": "identity",
            **headers,
        }

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    # -- the blanks ----------------------------------------------------------------------------------------------------

    def path(self, request: ModelRequest, accepts: Accepts) -> str:
        """What follows the base URL."""
        raise NotImplementedError

    def headers(self, _: ModelRequest) -> Mapping[str, str]:
        """All of them; a dialect may differ by request."""
        return self._headers

    def narrowed(self, _: ModelRequest, accepts: Accepts) -> Accepts:
        """What the model takes of this request, where one field rules out another."""
        return accepts

    @staticmethod
    def takes_part(part: Part) -> bool:  # noqa: ARG004
        """Whether the dialect has words for a part of a message."""
        return True

    def encode(self, request: ModelRequest, accepts: Accepts, extras: OptionalFields) -> dict[str, Any]:
        """The body. What the model does not take is gone from `request` already."""
        raise NotImplementedError

    # -- a provider ----------------------------------------------------------------------------------------------------

    def accepts(self, model: str) -> Accepts:
        """What this model takes, by its upstream id."""
        own = self._accepts(model) if callable(self._accepts) else self._accepts
        kinds = (*OPTIONAL, "images", "files", "audio", "strict", "image_detail")
        return msgspec.structs.replace(
            own, **{kind: getattr(own, kind) and getattr(self.takes, kind) for kind in kinds}
        )

    def left_out(self, request: ModelRequest) -> tuple[str, ...]:
        """What of this request the model will not be told as it was asked, for it does not take it."""
        return left_out(request, self.narrowed(request, self.accepts(request.model)))

    async def stream(self, request: ModelRequest) -> AsyncIterator[Piece]:
        accepts = self.narrowed(request, self.accepts(request.model))
        request = checked(self._own(fitted(request, accepts)), accepts, self.takes_part)
        names = Names(request)
        # An answer of nothing is one where a stop sequence may have met its beginning, or a tool has said everything.
        may_be_empty = bool(request.stop) or (bool(request.messages) and request.messages[-1].role == "tool")
        calls_before = sum(len(message.tool_calls) for message in request.messages)
        parser = self.parser(request.model, calls_before, may_be_empty)
        limits = self._timeouts
        if accepts.thinks:
            limits = msgspec.structs.replace(limits, first_token_s=limits.first_token_s * THINKING_WAITS)
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        answer, body = await self._open(names.sent(request), accepts, limits)
        has_called = False
        try:
            silent_s = loop.time() - asked_at  # since the provider was last seen alive; only waiting counts
            while not parser.is_done:
                waits_from = loop.time()
                try:
                    data = await self._read(answer, parser, silent_s, limits)
                except ProviderError:
                    if parser.is_whole:
                        break  # only the usage is lost
                    raise
                silent_s += loop.time() - waits_from
                if not data:
                    break
                silent_s = 0.0
                is_told = False
                for piece in parser.feed(data):
                    is_told = True
                    yield names.received(piece) if type(piece) is ToolInput and piece.name else piece
                if not is_told:
                    yield PROGRESS
            last = list(parser.end())
            if parser.is_done:
                await _drain(answer)
        except ProviderError as error:
            if error.said is not None:
                self._note("upstream_failed", 200, error.said, body)
            raise
        finally:
            answer.release()  # a connection whose body has not ended is closed by this, any other kept
        for piece in last:
            if type(piece) is ToolUse:
                has_called = True
                yield names.received(piece)
            elif type(piece) is Finish and has_called and (turn := parser.turn()):
                yield msgspec.structs.replace(piece, echo=Echo(self.source, request.model, turn))
            else:
                yield piece

    async def aclose(self) -> None:
        """Holds nothing: the session is its owner's."""

    def _own(self, request: ModelRequest) -> ModelRequest:
        """The request with the echoes of this provider's own turns by this model, and no other's."""
        messages = request.messages
        if all(message.echo is None for message in messages):
            return request
        return msgspec.structs.replace(
            request,
            messages=[
                message
                if message.echo is None
                or (message.echo.source == self.source and message.echo.upstream == request.model)
                else msgspec.structs.replace(message, echo=None)
                for message in messages
            ],
        )

    def _headers_of(self, request: ModelRequest) -> Mapping[str, str]:
        known = ((self.request_id_header, request.request_id), ("traceparent", request.traceparent))
        return {**self.headers(request), **{name: value for name, value in known if value}}

    def _body(self, request: ModelRequest, accepts: Accepts, extras: OptionalFields) -> bytes:
        if not extras.echo:
            plain = [msgspec.structs.replace(message, echo=None) for message in request.messages]
            request = msgspec.structs.replace(request, messages=plain)
        body = self.encode(request, accepts, extras)
        for extra in (accepts.extra, request.extra):
            merge(body, extra)
        return encode(body)

    async def _open(
        self, request: ModelRequest, accepts: Accepts, limits: Timeouts
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        """The answer once its head says 200, and what was asked. What the caller did not ask for and the server
        refuses is given up. Raises ProviderError."""
        base_url = self._base_url if isinstance(self._base_url, str) else await self._base_url()
        url, headers = base_url.rstrip("/") + self.path(request, accepts), self._headers_of(request)
        extras = self._remembered.get(request.model) or OptionalFields()
        is_heavy = has_bytes(request.messages)
        body = b""
        while True:
            before = body
            # Base64 of megabytes is work that would hold up every other answer.
            make = partial(self._body, request, accepts, extras)
            body = await asyncio.to_thread(make) if is_heavy else make()
            try:
                return await self._ask(url, body, headers, limits), body
            except ProviderError as error:
                less = None if body == before else self._less(error, request.model, extras)
                if less is None:
                    raise
                extras = less

    def _less(self, error: ProviderError, model: str, extras: OptionalFields) -> OptionalFields | None:
        """What to ask for after this refusal; None: the refusal is about something else."""
        if not isinstance(error.said, Fault):
            return None
        said = f"{error.said.param} {error.said.code} {error.said.type} {sentence_of(error.said)}"
        row = refused_field(self.refused_fields, said, extras)
        if row is None:
            return None
        if row.is_remembered:
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[model] = without(self._remembered.get(model) or OptionalFields(), row)
        return without(extras, row)

    async def _ask(self, url: str, body: bytes, headers: Mapping[str, str], limits: Timeouts) -> aiohttp.ClientResponse:
        """The answer once its head says 200. Raises ProviderError."""
        try:
            async with asyncio.timeout(limits.first_token_s):
                answer = await self._post(url, body, headers)
                if answer.status == 200:
                    return answer
                try:
                    raise await self._refusal(answer, body)
                finally:
                    answer.release()
        except aiohttp.ConnectionTimeoutError:
            raise ProviderError(
                "the model's provider could not be reached in time", code="TIMEOUT", retryable=True, reason="connect"
            ) from None
        except TimeoutError:
            raise self._too_slow(has_written=False) from None
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
            message = "the address of the model's provider is not valid"
            raise ProviderError(message, retryable=False, blame="key") from None
        except (aiohttp.ClientError, OSError) as error:
            log.warning("upstream_unreachable", provider=self.name, error=type(error).__name__)
            raise ProviderError("the model's provider cannot be reached", retryable=True) from None

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        limits = aiohttp.ClientTimeout(total=None, connect=self._timeouts.connect_s)

        async def post() -> aiohttp.ClientResponse:
            # A redirected POST becomes a GET, and the key would go along.
            return await self._session.post(url, data=body, headers=headers, timeout=limits, allow_redirects=False)

        try:
            return await post()
        except aiohttp.ServerDisconnectedError:
            # Most likely a kept connection that the other side closed in the same moment: no byte of an answer came.
            return await post()

    async def _refusal(self, answer: aiohttp.ClientResponse, asked: bytes) -> ProviderError:
        body = b""
        with contextlib.suppress(aiohttp.ClientError):
            while len(body) < MAX_ERROR_BYTES and (more := await answer.content.readany()):
                body += more
        fault = fault_of(body) or Fault(message=body.decode("utf-8", "replace"))
        self._note("upstream_refused", answer.status, fault, asked)
        error = failure(answer.status, body, answer.headers.get("Retry-After"), time.time())
        error.said = fault if answer.status in STATUSES else None
        return error

    def _note(self, event: str, status: int, fault: Fault | str, asked: bytes) -> None:
        """The provider's own words, without what they quote of the request."""
        # A refusal of a key may quote the key.
        said = quotable(sentence_of(fault), asked, *self._headers.values())
        log.warning(event, provider=self.name, status=status, words=words(fault), said=said)

    async def _read(self, answer: aiohttp.ClientResponse, parser: Parser, silent_s: float, limits: Timeouts) -> bytes:
        """What has come, or b"" at the end. Raises ProviderError when it takes too long or the connection breaks."""
        timeout_s = limits.between_tokens_s if parser.has_written else limits.first_token_s
        timeout_s -= silent_s
        if parser.is_whole:
            timeout_s = min(TAIL_S, timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                return await answer.content.readany()
        except TimeoutError:
            raise self._too_slow(parser.has_written) from None
        except (aiohttp.ClientError, OSError) as error:
            log.warning("upstream_broke_off", provider=self.name, error=type(error).__name__)
            raise ProviderError("the connection to the model's provider broke in mid-answer", retryable=True) from None

    def _too_slow(self, has_written: bool) -> ProviderError:
        message = "fell silent in the middle of its answer" if has_written else "did not begin to answer in time"
        reason: Reason = "between_tokens" if has_written else "first_token"
        return ProviderError(f"the model {message}", code="TIMEOUT", retryable=True, reason=reason)


def merge(body: dict[str, Any], extra: Mapping[str, Any]) -> None:
    """A row's own fields into the body, objects into objects; never over what the conversation is."""
    for name, value in extra.items():
        if name in RESERVED:
            continue
        if isinstance(value, Mapping) and isinstance(body.get(name), dict):
            body[name] = {**body[name], **value}
        else:
            body[name] = value


async def _drain(answer: aiohttp.ClientResponse) -> None:
    with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
        async with asyncio.timeout(DRAIN_S):
            while not answer.content.at_eof():
                await answer.content.readany()
