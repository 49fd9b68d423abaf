"""An HTTP call as handlers see it: identity, body, answers, and every error turned into its row. Knows no route."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

import structlog
from starlette.datastructures import Headers, QueryParams
from starlette.types import Receive, Scope, Send

from tokenrelay.protocol.errors import TokenrelayError, unreadable
from tokenrelay.protocol.reading.feed import MAX_CHUNK_BYTES
from tokenrelay.protocol.store.context import Context, of_headers
from tokenrelay.protocol.store.entries import CorruptEntry
from tokenrelay.protocol.wire import event_json
from tokenrelay.server import drain
from tokenrelay.server.access import origin
from tokenrelay.server.access.auth import Identity
from tokenrelay.server.access.limits import LARGE_BYTES_A_SECOND, Place, raise_if_crowded
from tokenrelay.server.edge import Edge
from tokenrelay.server.net import peer, refusal
from tokenrelay.server.timing import RequestTimer

log = structlog.get_logger()

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
SERVICE_PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""Answered to connections beyond the bound too: a probe that fails under load gets the process killed."""


READ_ON_S: Final = 1.0
READ_ON_BYTES: Final = 64 * 1024 * 1024
"""How long and how much of a body that nobody wants is read after the answer: a connection that is closed on unread
bytes is reset, and the answer lost with it (RFC 9112 section 9.6)."""

ErrorForm: TypeAlias = Callable[[TokenrelayError, str], refusal.Answer]


class Disconnected(Exception):
    """The client went away before it had said everything."""


class Call:
    """One HTTP request: what it says, and the ways to answer it."""

    def __init__(self, edge: Edge, scope: Scope, receive: Receive, send: Send) -> None:
        self.edge = edge
        self.scope = scope
        self.receive = receive
        self.send = send
        self.headers = Headers(scope=scope)
        self.query = QueryParams(scope["query_string"])
        self.path: Mapping[str, str] = scope.get("path_params", {})
        self.request_id = request_id_of(self.headers)
        self.at_ms = int(time.time() * 1000)
        self.received_at = time.monotonic()
        # Known for good once the body is read. A GET is an EventSource, which looks at the status only.
        self.wants_sse_error = self.method == "POST" and "text/event-stream" in self.headers.get("accept", "")
        self.identity: Identity | None = None  # None until it is known who asks
        self.has_begun = False  # the status line is out
        self.is_last = False  # the connection is to end with this answer
        self._is_whole = not self._has_body  # all of the body was received
        self._is_wanted = False  # it was asked for: a client that waits for `100 Continue` has got it
        self.error_form: ErrorForm | None = None  # how a front says errors; None: as our own wire does

    @property
    def method(self) -> str:
        return str(self.scope["method"])

    def begin(self) -> RequestTimer:
        """What a stream that this call starts is measured from, and what goes with it."""
        return RequestTimer(self.edge.tracing, context_of(self.headers, self.request_id), self.received_at)

    @property
    def accepts_json(self) -> bool:
        return "application/json" in self.headers.get("accept", "")

    @property
    def _has_body(self) -> bool:
        return "transfer-encoding" in self.headers or self.headers.get("content-length", "0") != "0"

    async def body(self, identity: Identity, place: Place | None = None) -> bytes:
        """The body of one who is known: nobody else's is read. With a `place` among the large ones it may be as large
        as its parts may be in base64, and then takes that place.

        Raises TokenrelayError UNSUPPORTED_MEDIA_TYPE, PAYLOAD_TOO_LARGE as soon as that is known, INVALID_REQUEST when
        it does not come in time, OVERLOADED when too many are coming at once; Disconnected.
        """
        settings, owner = self.edge.settings, identity.owner
        encoding = self.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise TokenrelayError(
                "UNSUPPORTED_MEDIA_TYPE", f"Content-Encoding: {encoding[:40]} is not taken; send it plain"
            )
        most = settings.max_body_bytes if place is None else settings.max_large_bytes
        declared = int(self.headers.get("content-length", "0"))
        if declared > most:
            raise _too_large(most)
        if place is not None and declared > settings.max_body_bytes:
            place.take()
        pieces: list[bytes] = []
        counted: list[int] = []  # bytes that count as buffered: a large body has its place instead
        try:
            async with asyncio.timeout(settings.read_timeout_s) as deadline:
                began = asyncio.get_running_loop().time()
                size = 0
                async for piece in self._pieces():
                    size += len(piece)
                    if size > most:
                        raise _too_large(most)
                    if place is not None and size > settings.max_body_bytes:
                        place.take()
                    if place is not None and place.is_taken:
                        deadline.reschedule(began + settings.read_timeout_s + size / LARGE_BYTES_A_SECOND)
                    else:
                        self.edge.limits.buffer(owner, len(piece))
                        counted.append(len(piece))
                    pieces.append(piece)
        except TimeoutError as error:
            raise TokenrelayError("INVALID_REQUEST", "the body did not arrive in time") from error
        finally:
            self.edge.limits.release(owner, sum(counted))
        return b"".join(pieces)

    async def _pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises Disconnected."""
        self._is_wanted = True
        while not self._is_whole:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            self._is_whole = not message.get("more_body", False)
            yield message.get("body", b"")

    async def _read_on(self) -> None:
        """Let the client send, and throw away, so that it comes to read what it was answered."""
        if "expect" in self.headers and not self._is_wanted:
            return  # it waits for us
        left = READ_ON_BYTES
        with contextlib.suppress(TimeoutError, Disconnected):
            async with asyncio.timeout(READ_ON_S):
                async for piece in self._pieces():
                    left -= len(piece)
                    if left < 0:
                        return

    async def start(self, status: int, headers: Mapping[str, str] | None = None, *raw: tuple[bytes, bytes]) -> None:
        """The status line and headers; `x-request-id` and the security headers are always there."""
        lines = [*origin.SECURITY_HEADERS, (b"x-request-id", self.request_id.encode()), *raw]
        given = headers or {}
        if "content-security-policy" not in given and not given.get("content-type", "").startswith("text/html"):
            lines.append(origin.NOT_A_PAGE)
        lines += [*self._cors(), *_encoded(given)]
        self.has_begun = True
        await self.send({"type": "http.response.start", "status": status, "headers": lines})

    async def write(self, body: bytes, *, more: bool = True) -> None:
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    async def write_bounded(self, body: bytes, *, more: bool = True) -> None:
        """In pieces of a chunk, each of which the client has to accept within `TOKENRELAY_SEND_TIMEOUT_S`: what is not
        written yet is all that a client that accepts nothing costs.

        Raises Disconnected after the timeout; the connection is gone then.
        """
        if len(body) > MAX_CHUNK_BYTES:
            peer.hold_little(self.send)
        end = max(len(body), 1)
        for start in range(0, end, MAX_CHUNK_BYTES):
            piece = body[start : start + MAX_CHUNK_BYTES]
            try:
                async with asyncio.timeout(self.edge.settings.send_timeout_s):
                    await self.write(piece, more=more or start + MAX_CHUNK_BYTES < end)
            except TimeoutError as error:
                self.edge.metrics.send_timeouts.labels("json").inc()
                peer.abort(self.send)
                raise Disconnected from error

    async def start_of_unknown_length(self, status: int, headers: Mapping[str, str]) -> None:
        """The head of a response that is written while it is made."""
        await self.start(status, {**headers, "connection": "close"} if self._must_close else headers)
        peer.hold_little(self.send)

    async def answer(
        self, status: int, body: bytes, content_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """A whole response."""
        both = {"content-type": content_type, "content-length": str(len(body)), **(headers or {})}
        if status == 204:
            both = dict(headers or {})
            body = b""
        if self._must_close:
            both["connection"] = "close"
        await self.start(status, both)
        await self.write_bounded(body, more=False)

    async def json(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        body = event_json.to_json(value).encode()
        await self.answer(status, body, "application/json", {"cache-control": "no-store", **(headers or {})})

    async def refuse(self, error: TokenrelayError, headers: Mapping[str, str] | None = None) -> None:
        """An error as its row of the table says; as one SSE event where the client reads events."""
        self.edge.refused(error, "http", self.request_id, self.identity)
        if self.has_begun:
            return
        as_event = self.wants_sse_error and not self.accepts_json and self.error_form is None
        if self.error_form is not None:
            answer = self.error_form(error, self.request_id)
        else:
            answer = (refusal.as_event if as_event else refusal.as_json)(error, self.request_id)
        lines = [*answer.headers, *self._cors(), *_encoded(headers or {})]
        is_unread = not self._is_whole
        if (self._must_close or is_unread) and not as_event:
            lines.append((b"connection", b"close"))
        self.has_begun = True
        await self.send({"type": "http.response.start", "status": answer.status, "headers": lines})
        await self.write_bounded(answer.body, more=is_unread)
        if is_unread:
            await self._read_on()
            await self.write(b"", more=False)

    @property
    def _must_close(self) -> bool:
        """During a drain a balancer must not put its next request on this connection."""
        return self.is_last or self.edge.is_draining

    def _cors(self) -> list[tuple[bytes, bytes]]:
        return origin.answer_headers(self.headers, self.edge.settings, self.scheme)

    @property
    def scheme(self) -> str | None:
        """How the caller reached the service, where a proxy that is trusted says so."""
        return origin.scheme_of(self.scope.get("client"), self.headers, self.edge.settings)


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]


def request_id_of(headers: Mapping[str, str]) -> str:
    """The caller's own if it can stand in a header, else a new one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.match(given) else refusal.new_request_id()


def context_of(headers: Mapping[str, str], request_id: str) -> Context:
    """What goes with every stream that this call or handshake starts."""
    return of_headers(request_id, headers.get("traceparent"), headers.get("x-debug-timing"))


Handler: TypeAlias = Callable[[Call], Awaitable[None]]


class Endpoint:
    """One path: its handlers by method, errors turned into answers. A plain ASGI application."""

    def __init__(
        self,
        edge: Edge,
        handlers: Mapping[str, Handler],
        otherwise: Handler | None = None,
        *,
        is_last: bool = False,
        error_form: ErrorForm | None = None,
    ) -> None:
        self._edge = edge
        self._handlers = dict(handlers)
        self._otherwise = otherwise  # None: other methods are refused
        self._is_last = is_last  # its answers end the connection
        self._error_form = error_form
        if "GET" in handlers:
            self._handlers.setdefault("HEAD", handlers["GET"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        edge = self._edge
        call = Call(edge, scope, receive, send)
        call.is_last, call.error_form = self._is_last, self._error_form
        handler = self._handlers.get(call.method, self._otherwise)
        try:
            if scope["path"] not in SERVICE_PATHS:
                raise_if_crowded(scope)
            origin.check(call.headers, edge.settings, call.scheme)
            if call.method == "OPTIONS" and "access-control-request-method" in call.headers:
                await call.answer(204, b"", "", origin.preflight_headers(self._handlers))
                return
            if handler is None:
                allowed = ", ".join(sorted(self._handlers))
                error = TokenrelayError("METHOD_NOT_ALLOWED", f"this path takes {allowed}")
                await call.refuse(error, {"allow": allowed})
                return
            await handler(call)
        except TokenrelayError as error:
            await call.refuse(error)
        except Disconnected:
            log.debug("client_left", request_id=call.request_id)
        except asyncio.CancelledError:
            # The edge exits, its time to close is over, and what this call waits for (a silent Redis) has not come.
            # uvicorn, which cancels, would answer 500, after which nobody tries again.
            if call.has_begun:
                raise
            log.warning("given_up_at_exit", request_id=call.request_id, path=scope["path"])
            await call.refuse(drain.refusal())
        except CorruptEntry as error:  # read by a handler that answers with a document
            log.error("log_corrupt", error=str(error))
            await call.refuse(unreadable())
        except Exception:
            log.exception("request_failed", request_id=call.request_id, path=scope["path"])
            await call.refuse(TokenrelayError("INTERNAL_ERROR"))


def _too_large(most: int) -> TokenrelayError:
    return TokenrelayError("PAYLOAD_TOO_LARGE", f"a body has at most {most} bytes", max_bytes=most)
