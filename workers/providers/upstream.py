"""The one HTTP call behind every dialect: asks, reads with deadlines, closes; refuses to know what is said."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import ClassVar, Final, TypeAlias

import aiohttp
import msgspec
import structlog

from tokenrelay.workers.conversation import ModelRequest, Piece, ToolUse
from tokenrelay.workers.providers.base import Accepts, ProviderError, Reason, fitted, left_out
from tokenrelay.workers.providers.faults import failure, fault_of, words
from tokenrelay.workers.providers.names import Names
from tokenrelay.workers.providers.parser import Parser

BaseUrl: TypeAlias = str | Callable[[], Awaitable[str]]
Capabilities: TypeAlias = Accepts | Callable[[str], Accepts]
"""What all models of a provider take, or a function that says it for one model, by its upstream id."""

MAX_ERROR_BYTES: Final = 64 * 1024

TAIL_S: Final = 5.0
"""After the finish reason only the usage is missing: worth a moment, not the patience meant for a model that thinks."""

DRAIN_S: Final = 0.05
"""After the stream's last event the HTTP body's own end is due; reading it lets the connection, and its TLS, be used
again."""

log = structlog.get_logger()


class Timeouts(msgspec.Struct, frozen=True):
    """Seconds. `first_token_s` runs from the request; thinking that can be seen starts either wait anew."""

    connect_s: float = 10.0
    first_token_s: float = 120.0
    between_tokens_s: float = 60.0


class Upstream:
    """A `Provider` for one maker; a dialect is a subclass that fills in the four blanks below.

    `base_url` is what the maker's own SDK takes, or a coroutine function that gives it. `session` is shared and stays
    its owner's; its own timeouts are not used, those given here are. `headers` may hold a key: they are never shown.
    """

    takes: ClassVar[Accepts] = Accepts()
    """What the dialect has words for at all; no model of it takes more."""

    parser: ClassVar[type[Parser]]

    request_id_header: ClassVar[str] = "X-Request-Id"
    """Where the caller's id goes; not every maker looks at one, none minds it."""

    def __init__(
        self,
        *,
        name: str,
        base_url: BaseUrl,
        session: aiohttp.ClientSession,
        headers: Mapping[str, str],
        accepts: Capabilities | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.name = name
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

    def path(self, request: ModelRequest) -> str:
        """What follows the base URL."""
        raise NotImplementedError

    def headers(self, _: ModelRequest) -> Mapping[str, str]:
        """All of them; a dialect may differ by request."""
        return self._headers

    def encode(self, request: ModelRequest, accepts: Accepts) -> bytes:
        """The body. What the model does not take is gone from `request` already."""
        raise NotImplementedError

    # -- a provider ----------------------------------------------------------------------------------------------------

    def accepts(self, model: str) -> Accepts:
        """What this model takes, by its upstream id."""
        own = self._accepts(model) if callable(self._accepts) else self._accepts
        return msgspec.structs.replace(
            own,
            temperature=own.temperature and self.takes.temperature,
            top_p=own.top_p and self.takes.top_p,
            stop=own.stop and self.takes.stop,
            seed=own.seed and self.takes.seed,
            tools=own.tools and self.takes.tools,
        )

    def left_out(self, request: ModelRequest) -> tuple[str, ...]:
        """What of this request the model will not be told, for it does not take it."""
        return left_out(request, self.accepts(request.model))

    async def stream(self, request: ModelRequest) -> AsyncIterator[Piece]:
        accepts = self.accepts(request.model)
        request = fitted(request, accepts)
        names = Names(request)
        parser = self.parser(request.model, sum(len(message.tool_calls) for message in request.messages))
        body = self.encode(names.sent(request), accepts)
        base_url = self._base_url if isinstance(self._base_url, str) else await self._base_url()
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        answer = await self._ask(base_url.rstrip("/") + self.path(request), body, self._headers_of(request))
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
                    yield names.received(piece) if type(piece) is ToolUse else piece
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

    def _headers_of(self, request: ModelRequest) -> Mapping[str, str]:
        known = ((self.request_id_header, request.request_id), ("traceparent", request.traceparent))
        return {**self.headers(request), **{name: value for name, value in known if value}}

    async def _ask(self, url: str, body: bytes, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """The answer once its head says 200. Raises ProviderError."""
        try:
            async with asyncio.timeout(self._timeouts.first_token_s):
                answer = await self._post(url, body, headers)
                if answer.status == 200:
                    return answer
                try:
                    raise await self._refusal(answer)
                finally:
                    answer.release()
        except aiohttp.ConnectionTimeoutError:
            raise ProviderError(
                "the model's maker could not be reached in time", code="TIMEOUT", retryable=True, reason="connect"
            ) from None
        except TimeoutError:
            raise self._too_slow(has_written=False) from None
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
            raise ProviderError("the address of the model's maker is not valid", retryable=False, blame="key") from None
        except (aiohttp.ClientError, OSError) as error:
            log.warning("upstream_unreachable", provider=self.name, error=type(error).__name__)
            raise ProviderError("the model's maker cannot be reached", retryable=True) from None

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

    async def _refusal(self, answer: aiohttp.ClientResponse) -> ProviderError:
        body = b""
        with contextlib.suppress(aiohttp.ClientError):
            while len(body) < MAX_ERROR_BYTES and (more := await answer.content.readany()):
                body += more
        log.warning("upstream_refused", provider=self.name, status=answer.status, words=words(fault_of(body)))
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
        reason: Reason = "between_tokens" if has_written else "first_token"
        return ProviderError(f"the model {message}", code="TIMEOUT", retryable=True, reason=reason)


async def _drain(answer: aiohttp.ClientResponse) -> None:
    with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
        async with asyncio.timeout(DRAIN_S):
            while not answer.content.at_eof():
                await answer.content.readany()
