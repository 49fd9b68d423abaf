"""One HTTP connection: uvicorn's protocol with bounds and without leniency. Knows no route and no key.

What uvicorn leaves open: the size of a request's head, the time it takes to arrive, requests pipelined without end, the
body of a request that offers an upgrade, chunks in answers to HTTP/1.0, trailers among the headers. Answers that leave
from here have the form of all others (protocol/README.md section 6).
"""

from __future__ import annotations

import asyncio
import urllib.parse
from typing import Any, Final, cast

import httptools
import structlog
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.server.access.limits import CROWDED, LARGE_BYTES_A_SECOND
from tokenrelay.server.net import framing, peer, refusal
from tokenrelay.server.net.lean_event import LeanEvent
from tokenrelay.server.net.uvicorn_config import Config

MAX_HEAD_BYTES: Final = 32_768
MAX_LINE_BYTES: Final = 8_000
"""Of the request line's target, and of one header: below the 8,192 that `websockets` takes, so that a handshake is
refused here with a reason."""
MAX_HEADERS: Final = 100
MAX_PIPELINED: Final = 16
MIN_SPARE: Final = 16
"""Connections beyond the bound that are still told why; an eighth of the bound if that is more."""
MAX_OVERHEAD: Final = 8
"""A chunked body may take so many times the largest body on the wire; framing of single bytes takes six."""

BODY_GRACE_S: Final = 2.0
"""A handler that waits for a body refuses it first, with a reason; the connection goes after that."""

log = structlog.get_logger()


class _Fault(Exception):
    """Stops the parser; what is wrong is in the protocol's `_fault`."""


class _Flow(FlowControl):
    """uvicorn's, with an event of ours."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._is_writable_event = LeanEvent()  # type: ignore[assignment]
        self._is_writable_event.set()


class _Exchange(RequestResponseCycle):
    """A request and its answer where the client speaks HTTP/1.0, or waits to hear that its body is wanted."""

    is_open_ended = False
    """The answer ends where the connection ends: HTTP/1.0 knows no chunks (RFC 9112 section 6.1)."""

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "http.response.start":
            if self.waiting_for_100_continue:
                self.keep_alive = False  # whether its body still comes cannot be known, nor what its next bytes are
            named = {name for name, _ in message.get("headers", ())}
            if self.scope["http_version"] == "1.0" and b"content-length" not in named:
                self.is_open_ended = True
                self.chunked_encoding = False
        elif message["type"] == "http.response.body" and self.is_open_ended:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


class HttpProtocol(HttpToolsProtocol):
    """One HTTP connection."""

    # CPython shares the names of attributes among all objects of a class as long as there are 30 at most (PEP 412); one
    # more and each object has a table of its own, of 1.3 KiB. uvicorn has 29.
    __slots__ = ("_bounds", "_came", "_deadline", "_fault", "_head", "_is_in_head", "_is_offer")

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config=config, server_state=server_state, app_state=app_state, _loop=_loop)
        self._bounds = cast(Config, config)
        self._deadline: asyncio.TimerHandle | None = None  # None while nothing is being waited for
        self._fault: TokenrelayError | None = None  # set once: why the request is refused
        self._came = 0  # bytes of the message that is arriving
        self._head = 0  # bytes of its header lines
        self._is_in_head = True  # nothing but the head of the next request has come
        self._is_offer = False  # the head offers an upgrade, and has not been dealt with

    # -- the connection --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        self.flow = _Flow(self.transport)
        most = self._bounds.max_connections
        beyond = len(self.connections) - most
        if beyond > max(most // 8, MIN_SPARE):
            self.transport.abort()  # beyond those that get an answer
            return
        if beyond > 0:
            self.app_state = {**self.app_state, CROWDED: True}
            self.timeout_keep_alive = 1  # it must not stay; but closed at once the answer could be lost (RST)
        self._expect(self._bounds.read_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        super().connection_lost(exc)

    def _expect(self, seconds: float) -> None:
        self._arrived()
        self._deadline = self.loop.call_later(seconds, self._late)

    def _arrived(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        if self.pipeline:  # reading is paused: it is not the peer who is late
            self._expect(self._bounds.read_timeout_s)
            return
        log.debug("request_late", in_head=self._is_in_head)
        self.transport.abort()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # its peer never took the last answer; a gentle close would wait for that
        else:
            super().timeout_keep_alive_handler()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            peer.drop_later(self.loop, self.transport)

    @property
    def _is_idle(self) -> bool:
        """Every request that has begun is answered."""
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request, whatever its type says
        return cycle is None or cycle.response_complete

    # -- reading ---------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._deadline is None and self._is_idle:
            self._expect(self._bounds.read_timeout_s)
        self._came += len(data)
        rest = data
        while rest and not self.transport.is_closing():
            rest = self._feed(rest)
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return
        if self._is_in_head and self._came > MAX_HEAD_BYTES:
            self._fault = _too_large(MAX_HEAD_BYTES, "a request's head")
            self._refuse()
        elif self._came > self._most_bytes and not self._is_answering:
            self.transport.abort()

    @property
    def _most_bytes(self) -> int:
        return MAX_HEAD_BYTES + MAX_OVERHEAD * self._bounds.max_body_bytes + self._bounds.max_large_bytes

    @property
    def _is_answering(self) -> bool:
        """The handler reads on for a while, so that the client comes to read its answer; what nobody reads pauses."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and cycle.response_started and not cycle.response_complete

    def _feed(self, data: bytes) -> bytes:
        """Parse; gives back what is to be parsed after a head that offered an upgrade."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
            if self._should_upgrade():
                self._upgrade(rest)
                return b""
            # `httptools` takes what follows such a head for another protocol: the body would be the next request. Read
            # without the offer, by a new parser, it is what it says it is.
            self.parser = _parser(self)
            version = self.scope["http_version"]
            return framing.without_offer(self.scope["method"], self.url, version, self.headers) + rest
        except httptools.HttpParserError:
            self._refuse()
            return b""
        if self._is_http_0_9(data):
            self._fault = TokenrelayError("INVALID_REQUEST", "expected HTTP/1.1 or HTTP/1.0, got HTTP/0.9")
            self._refuse()
        return b""

    def _is_http_0_9(self, data: bytes) -> bool:
        """A whole request line without a version has come: nothing else will."""
        is_line = self._is_in_head and bool(self.headers == [] and self.url) and data.endswith(b"\n")
        return is_line and self.parser.get_http_version() == "0.0"

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = True
        self._is_offer = False
        self._head = 0
        if self._deadline is None:
            self._expect(self._bounds.read_timeout_s)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_LINE_BYTES:
            self._stop(_too_large(MAX_LINE_BYTES, "a request's target"))
        if not url.isascii():
            self._stop(TokenrelayError("INVALID_REQUEST", "a request's target is ASCII; send the rest as %XX"))

    def on_header(self, name: bytes, value: bytes) -> None:
        line = len(name) + len(value) + 4  # colon, space, CR, LF
        self._head += line
        if line > MAX_LINE_BYTES:
            self._stop(_too_large(MAX_LINE_BYTES, "a header"))
        if self._head > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            self._stop(_too_large(MAX_HEAD_BYTES, f"a request's head, of at most {MAX_HEADERS} headers,"))
        if self._is_in_head:  # else it is a trailer, which must not be merged with them (RFC 9110 section 6.5.1)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        method, version = self.parser.get_method().decode("ascii"), self.parser.get_http_version()
        self.scope["method"], self.scope["http_version"] = method, version
        try:
            framing.check(method, version, self.headers)
        except TokenrelayError as error:
            self._stop(error)
        if self.parser.should_upgrade():
            self._is_offer = True  # `_feed` goes on
            return
        self._begin(version)
        if len(self.pipeline) > MAX_PIPELINED:
            self._stop(TokenrelayError("INVALID_REQUEST", "too many requests at once on one connection"))
        self._expect(self._bounds.read_timeout_s + BODY_GRACE_S + self._more_time_s())

    def _more_time_s(self) -> float:
        """What a body beyond the usual size may take longer, if one is announced; its handler looks more closely."""
        said = dict(self.headers)
        size = int(said.get(b"content-length", b"0"))
        if b"transfer-encoding" in said:
            size = self._bounds.max_large_bytes
        is_large = self._bounds.max_body_bytes < size <= self._bounds.max_large_bytes
        return size / LARGE_BYTES_A_SECOND if is_large else 0.0

    def _begin(self, version: str) -> None:
        """Hand the request to the application, or queue it behind those before it; as uvicorn does."""
        target = httptools.parse_url(self.url)
        path = target.path.decode("ascii")
        self.scope["path"] = self.root_path + (urllib.parse.unquote(path) if "%" in path else path)
        self.scope["raw_path"] = self.root_path.encode("ascii") + target.path
        self.scope["query_string"] = target.query or b""
        is_waiting = self.expect_100_continue and version == "1.1"  # RFC 9110 section 10.1.1
        is_idle = self._is_idle
        self.cycle = (_Exchange if is_waiting or version == "1.0" else RequestResponseCycle)(
            scope=self.scope, transport=self.transport, flow=self.flow, logger=self.logger,
            access_logger=self.access_logger, access_log=self.access_log,
            default_headers=self.server_state.default_headers, message_event=cast(asyncio.Event, LeanEvent()),
            expect_100_continue=is_waiting, keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )  # fmt: skip
        self._is_in_head = False
        if is_idle:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_message_complete(self) -> None:
        if self._is_offer:
            return
        super().on_message_complete()
        self._arrived()
        self._came = 0
        self._is_in_head = True

    # -- upgrading -------------------------------------------------------------------------------------------------

    def _should_upgrade(self) -> bool:
        return framing.takes_websocket(self.scope["method"], self.scope["http_version"], self.headers)

    def _upgrade(self, rest: bytes) -> None:
        if not self._is_idle:
            self._fault = TokenrelayError("INVALID_REQUEST", "an upgrade has to wait for the answers before it")
            self._refuse()
            return
        self._arrived()
        self.handle_websocket_upgrade()
        self.parser = cast(Any, None)  # it knows us, and we it: nothing is left for the collector to find
        if rest:
            cast(asyncio.Protocol, self.transport.get_protocol()).data_received(rest)

    # -- refusing --------------------------------------------------------------------------------------------------

    def _stop(self, error: TokenrelayError) -> None:
        self._fault = error
        raise _Fault

    def _refuse(self) -> None:
        """What cannot be read gets its row of the table, unless it would be taken for the answer to another request."""
        cycle: RequestResponseCycle | None = self.cycle
        is_its_own = not self._is_in_head and not self.pipeline  # the cycle is that of the request at fault
        if cycle is not None and not cycle.response_complete and not (is_its_own and not cycle.response_started):
            if cycle.response_started:
                self.transport.abort()
            cycle.keep_alive = False  # the requests before it are answered; then the connection ends
            return
        if cycle is None or self._is_in_head or not cycle.response_started:
            error = self._fault or TokenrelayError("INVALID_REQUEST", "this is not HTTP/1.1")
            self.transport.write(refusal.as_bytes(error))
        self.transport.close()
        peer.drop_later(self.loop, self.transport)


def _parser(protocol: HttpProtocol) -> httptools.HttpRequestParser:
    """As uvicorn makes one."""
    parser = httptools.HttpRequestParser(protocol)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


def _too_large(most: int, what: str) -> TokenrelayError:
    return TokenrelayError("PAYLOAD_TOO_LARGE", f"{what} has at most {most} bytes", max_bytes=most)
