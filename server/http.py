"""An HTTP call as handlers see it: identity, body, answers, and every error turned into its row. Knows no route."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import structlog
from starlette.datastructures import Headers, QueryParams
from starlette.types import Receive, Scope, Send

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.store.context import Context, of_headers
from tokenrelay.protocol.wire import event_json, sse
from tokenrelay.server import drain
from tokenrelay.server.access import origin
from tokenrelay.server.access.limits import raise_if_crowded
from tokenrelay.server.timing import RequestTimer

if TYPE_CHECKING:
    from tokenrelay.server.access.auth import Identity
    from tokenrelay.server.edge import Edge

log = structlog.get_logger()

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
SERVICE_PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""Answered to connections beyond the bound too: a probe that fails under load gets the process killed."""

SSE_HEADERS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
    # "Exactly one done:true event ends every stream, and then the connection closes."
    (b"connection", b"close"),
)


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

    @property
    def method(self) -> str:
        return str(self.scope["method"])

    def begin(self) -> RequestTimer:
        """What a stream that this call starts is measured from, and what goes with it."""
        return RequestTimer(self.edge.tracing, context_of(self.headers, self.request_id), self.received_at)

    @property
    def accepts_json(self) -> bool:
        return "application/json" in self.headers.get("accept", "")

    async def body(self) -> bytes:
        """Raises TokenrelayError PAYLOAD_TOO_LARGE as soon as that is known, INVALID_REQUEST when it does not come in
        time, OVERLOADED when too many are coming at once; Disconnected."""
        settings = self.edge.settings
        declared = self.headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > settings.max_body_bytes:
            raise _too_large(settings.max_body_bytes)
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(settings.read_timeout_s):
                await self._read(parts, settings.max_body_bytes)
        except TimeoutError as error:
            raise TokenrelayError("INVALID_REQUEST", "the body did not arrive in time") from error
        finally:
            self.edge.limits.release(sum(map(len, parts)))
        return b"".join(parts)

    async def _read(self, parts: list[bytes], most: int) -> None:
        """What is in `parts` counts as buffered."""
        size, is_more = 0, True
        while is_more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            part = message.get("body", b"")
            size += len(part)
            if size > most:
                raise _too_large(most)
            self.edge.limits.buffer(len(part))
            parts.append(part)
            is_more = message.get("more_body", False)

    async def start(self, status: int, headers: Mapping[str, str] | None = None, *raw: tuple[bytes, bytes]) -> None:
        """The status line and headers; `x-request-id` and the security headers are always there."""
        lines = [*origin.SECURITY_HEADERS, (b"x-request-id", self.request_id.encode()), *raw]
        given = headers or {}
        if "content-security-policy" not in given and not given.get("content-type", "").startswith("text/html"):
            lines.append(origin.NOT_A_PAGE)
        lines += origin.answer_headers(self.headers, self.edge.settings)
        lines += [(name.encode(), value.encode("latin-1", "replace")) for name, value in given.items()]
        self.has_begun = True
        await self.send({"type": "http.response.start", "status": status, "headers": lines})

    async def write(self, body: bytes, *, more: bool = True) -> None:
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    async def answer(
        self, status: int, body: bytes, content_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """A whole response."""
        both = {"content-type": content_type, "content-length": str(len(body)), **(headers or {})}
        if status == 204:
            both = dict(headers or {})
            body = b""
        if self.edge.is_draining:
            both["connection"] = "close"  # a balancer must not put its next request on this connection
        await self.start(status, both)
        await self.write(body, more=False)

    async def json(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        body = event_json.to_json(value).encode()
        await self.answer(status, body, "application/json", {"cache-control": "no-store", **(headers or {})})

    async def refuse(self, error: TokenrelayError) -> None:
        """An error as its row of the table says; as one SSE event where the client reads events."""
        self.edge.metrics.errors.labels(error.code).inc()
        if self.has_begun:
            return
        headers = error_headers(error)
        if not self.wants_sse_error or self.accepts_json:
            await self.json(error.status, error.body(self.request_id), headers)
            return
        await self.start(error.status, headers, *SSE_HEADERS)
        await self.write(sse.encode_frame(event_json.to_json(error.event_data(self.request_id))), more=False)


def error_headers(error: TokenrelayError) -> dict[str, str]:
    """What a refusal says in its head as well."""
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    if error.code == "RATE_LIMIT":
        limits = (
            ("limit", "x-ratelimit-limit"),
            ("remaining", "x-ratelimit-remaining"),
            ("reset", "x-ratelimit-reset"),
        )
        headers |= {name: str(error.fields[field]) for field, name in limits if field in error.fields}
    if error.status == 401:
        headers["www-authenticate"] = 'Bearer realm="tokenrelay"'  # RFC 9110 section 11.6.1
    return headers


def request_id_of(headers: Mapping[str, str]) -> str:
    """The caller's own if it can stand in a header, else a new one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.match(given) else secrets.token_hex(8)


def context_of(headers: Mapping[str, str], request_id: str) -> Context:
    """What goes with every stream that this call or handshake starts."""
    return of_headers(request_id, headers.get("traceparent"), headers.get("x-debug-timing"))


Handler: TypeAlias = Callable[[Call], Awaitable[None]]


class Endpoint:
    """One path: its handlers by method, errors turned into answers. A plain ASGI application."""

    def __init__(self, edge: Edge, handlers: Mapping[str, Handler], otherwise: Handler | None = None) -> None:
        self._edge = edge
        self._handlers = dict(handlers)
        self._otherwise = otherwise  # None: other methods are refused
        if "GET" in handlers:
            self._handlers.setdefault("HEAD", handlers["GET"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        edge = self._edge
        call = Call(edge, scope, receive, send)
        handler = self._handlers.get(call.method, self._otherwise)
        try:
            if scope["path"] not in SERVICE_PATHS:
                raise_if_crowded(scope)
            origin.check(call.headers, edge.settings)
            if call.method == "OPTIONS" and "access-control-request-method" in call.headers:
                await call.answer(204, b"", "", origin.preflight_headers(self._handlers))
                return
            if handler is None:
                allowed = ", ".join(sorted(self._handlers))
                await call.json(405, _method_error(call, allowed), {"allow": allowed})
                return
            await handler(call)
        except TokenrelayError as error:
            await call.refuse(error)
        except Disconnected:
            log.debug("client_left", request_id=call.request_id)
        except asyncio.CancelledError:
            # The edge goes, its patience is over, and what this call waits for (a Redis gone without a word) has not
            # come. uvicorn, which cancels, would answer 500, after which nobody tries again.
            if call.has_begun:
                raise
            log.warning("given_up_at_exit", request_id=call.request_id, path=scope["path"])
            await call.refuse(drain.refusal())
        except Exception:
            log.exception("request_failed", request_id=call.request_id, path=scope["path"])
            await call.refuse(TokenrelayError("INTERNAL_ERROR"))


def _method_error(call: Call, allowed: str) -> dict[str, Any]:
    return TokenrelayError("METHOD_NOT_ALLOWED", f"this path takes {allowed}").body(call.request_id)


def _too_large(most: int) -> TokenrelayError:
    return TokenrelayError("PAYLOAD_TOO_LARGE", f"a body has at most {most} bytes", max_bytes=most)


HOLD_BYTES: Final = 4 * 1024
"""What a transport may hold before `send` waits. With `MAX_CHUNK_BYTES` it is what a stalled reader costs."""


def hold_little(send: Send) -> None:
    """Let `send` wait as soon as the kernel takes no more: what a reader lacks is in the log, not in a buffer."""
    transport = transport_of(send)
    if transport is not None and not transport.is_closing():  # uvloop raises for one whose client has gone
        transport.set_write_buffer_limits(high=HOLD_BYTES)


def abort(send: Send) -> None:
    """Drop the connection behind an ASGI `send` without waiting for a peer that takes nothing."""
    transport = transport_of(send)
    if transport is not None:
        transport.abort()


def transport_of(send: Send) -> asyncio.WriteTransport | None:
    """ASGI has no word for it; uvicorn's `send` is a method of the object that holds the transport."""
    transport: asyncio.WriteTransport | None = getattr(getattr(send, "__self__", None), "transport", None)
    return transport
