"""uvicorn's two protocols with bounds on what a peer may send before any handler sees it. Knows no route and no key.

What uvicorn leaves open: the size of a request's head, the time it takes to arrive, requests pipelined without end,
handshakes that cannot be read (they would stay open for ever), floods of WebSocket control frames, messages of
endless fragments. Answers that leave from here have the form of all others (protocol/README.md section 6).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from http import HTTPStatus
from typing import Any, Final, cast

import structlog
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.wire import event_json
from tokenrelay.protocol.wire.websocket import Close
from tokenrelay.server import drain
from tokenrelay.server.access.limits import CROWDED, Bucket
from tokenrelay.server.access.origin import NOT_A_PAGE, SECURITY_HEADERS
from tokenrelay.server.http import error_headers
from tokenrelay.server.net.lean_event import LeanEvent, LeanQueue
from tokenrelay.server.net.ws_protocol import Handshake

MAX_HEAD_BYTES: Final = 32_768
MAX_LINE_BYTES: Final = 8_000
"""Of the request line's target, and of one header: below the 8,192 that `websockets` takes, so that a handshake is
refused here with a word."""
MAX_HEADERS: Final = 100
MAX_PIPELINED: Final = 16
MIN_SPARE: Final = 16
"""Connections beyond the bound that are still told why; an eighth of the bound if that is more."""
MAX_OVERHEAD: Final = 8
"""A chunked body may take so many times the largest body on the wire; framing of single bytes takes six."""

BODY_GRACE_S: Final = 2.0
"""A handler that waits for a body refuses it first, with a word; the connection goes after that."""
LINGER_S: Final = 10.0
"""A closed connection whose peer does not take what is left is dropped after so long."""

FAREWELL_S: Final = 1.0
"""Between our last word to a flood and the end: closed at once, what is unread would reset the connection before the
peer has heard it."""
MAX_AFTER_CLOSE: Final = 262_144

CONTROL_RATE: Final = 10.0
CONTROL_BURST: Final = 100.0
"""Pings and unasked pongs, a second and at once. Clients send one every 15 to 60 s."""
MAX_FRAGMENTS: Final = 1_024
MAX_QUEUED: Final = 1_024
SLICE_BYTES: Final = 4_096
"""What is parsed before anybody looks: one read may hold 40,000 frames of six bytes."""

log = structlog.get_logger()


class Config(uvicorn.Config):
    """uvicorn's, with our bounds: connections of the process, seconds for a request's head (and again its body)."""

    max_connections: int
    read_timeout_s: float
    max_body_bytes: int


class _Fault(Exception):
    """Stops the parser; what is wrong is in the protocol's `_fault`."""


def refusal(error: TokenrelayError) -> bytes:
    """A whole HTTP response; the connection closes behind it."""
    request_id = secrets.token_hex(8)
    body = event_json.to_json(error.body(request_id)).encode()
    phrase = HTTPStatus(error.status).phrase
    lines = [
        f"HTTP/1.1 {error.status} {phrase}".encode(), b"content-type: application/json", b"cache-control: no-store",
        *(b": ".join(line) for line in (*SECURITY_HEADERS, NOT_A_PAGE)), f"x-request-id: {request_id}".encode(),
        f"content-length: {len(body)}".encode(), b"connection: close",
        *(f"{name}: {value}".encode() for name, value in error_headers(error).items()),
    ]  # fmt: skip
    return b"\r\n".join([*lines, b"", body])


class _Flow(FlowControl):
    """uvicorn's, with a flag of ours."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._is_writable_event = LeanEvent()  # type: ignore[assignment]
        self._is_writable_event.set()


class HttpProtocol(HttpToolsProtocol):
    """One HTTP connection."""

    # CPython shares the names of attributes among all objects of a class as long as there are 30 at most (PEP 412); one
    # more and each object has a table of its own, of 1.3 KiB. uvicorn has 29.
    __slots__ = ("_bounds", "_came", "_deadline", "_fault", "_head", "_is_in_head")

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config=config, server_state=server_state, app_state=app_state, _loop=_loop)
        self._bounds = cast(Config, config)
        self._deadline: asyncio.TimerHandle | None = None  # None while nothing is being waited for
        self._fault: TokenrelayError | None = None  # set once: why the request is refused
        self._came = 0  # bytes of the message that is arriving
        self._head = 0  # bytes of its header lines
        self._is_in_head = True

    # -- the connection
    # --------------------------------------------------------------------------------------------------

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
            _drop_later(self.loop, self.transport)

    # -- reading
    # ---------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request, whatever its type says
        is_idle = cycle is None or cycle.response_complete
        if self._deadline is None and is_idle:
            self._expect(self._bounds.read_timeout_s)
        self._came += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._is_in_head and self._came > MAX_HEAD_BYTES:
            self._fault = _too_large(MAX_HEAD_BYTES, "a request's head")
            self.send_400_response("")
        elif self._came > MAX_HEAD_BYTES + MAX_OVERHEAD * self._bounds.max_body_bytes:
            self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = True
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
        super().on_header(name, value)
        line = len(name) + len(value) + 4  # colon, space, CR, LF
        self._head += line
        if line > MAX_LINE_BYTES:
            self._stop(_too_large(MAX_LINE_BYTES, "a header"))
        if self._head > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            self._stop(_too_large(MAX_HEAD_BYTES, f"a request's head, of at most {MAX_HEADERS} headers,"))

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        known: RequestResponseCycle | None = self.cycle
        super().on_headers_complete()
        if self.cycle is not known:
            self.cycle.message_event = LeanEvent()  # type: ignore[assignment]  # its task has not begun
        if len(self.pipeline) > MAX_PIPELINED:
            self._stop(TokenrelayError("INVALID_REQUEST", "too many requests at once on one connection"))
        self._expect(self._bounds.read_timeout_s + BODY_GRACE_S)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._arrived()
        self._came = 0

    # -- refusing
    # --------------------------------------------------------------------------------------------------------

    def _stop(self, error: TokenrelayError) -> None:
        self._fault = error
        raise _Fault

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  uvicorn's words are not ours
        """What cannot be read gets the row of the table; in the middle of an answer there is no place for one."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and cycle.response_started and not cycle.response_complete:
            self.transport.abort()
            return
        error = self._fault or TokenrelayError("INVALID_REQUEST", "this is not HTTP/1.1")
        self.transport.write(refusal(error))
        self.transport.close()
        _drop_later(self.loop, self.transport)

    def handle_websocket_upgrade(self) -> None:
        self._arrived()
        super().handle_websocket_upgrade()
        self.parser = cast(Any, None)  # it knows us, and we it: nothing is left for the collector to find


def _drop_later(loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
    """A gentle close waits until the peer has taken everything, for as long as that takes."""
    if transport.get_write_buffer_size():
        loop.call_later(LINGER_S, transport.abort)


def _too_large(most: int, what: str) -> TokenrelayError:
    return TokenrelayError("PAYLOAD_TOO_LARGE", f"{what} has at most {most} bytes", max_bytes=most)


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket connection."""

    # As above: uvicorn has 40. Ours, and those of uvicorn's that differ from one connection to the next.
    __slots__ = (
        "_after_close", "_bounds", "_control", "_deadline", "_is_deaf", "client", "close_sent", "close_timer", "conn",
        "frames", "last_ping_rtt", "pending_ping_payload", "ping_sent_at", "ping_timer", "pong_timer", "queue",
        "read_paused", "request", "response", "scope", "server", "transport", "writable",
    )  # fmt: skip

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config=config, server_state=server_state, app_state=app_state, _loop=_loop)
        self.queue = LeanQueue()  # type: ignore[assignment]
        self.writable = LeanEvent()  # type: ignore[assignment]
        self.writable.set()
        self.conn.parser.close()  # what replaces it comes below; a generator that has begun keeps its protocol alive
        self._bounds = cast(Config, config)
        # Compression is off (`process.py`): no extensions.
        self.conn = Handshake(max_size=config.ws_max_size, logger=logging.getLogger("uvicorn.error"))
        self._control = Bucket(CONTROL_RATE, CONTROL_BURST, self.loop.time())
        self._deadline: asyncio.TimerHandle | None = None  # while a message has begun that has not ended
        self._after_close = 0  # bytes that came although we have said goodbye
        self._is_deaf = False  # a flood: what comes is not looked at

    def shutdown(self) -> None:
        """The edge goes. A handshake that still waits for something is told to come again, not uvicorn's 500."""
        if self.handshake_complete:
            super().shutdown()
            return
        self.stop_keepalive()
        self.handshake_complete = self.close_sent = True
        self.transport.write(refusal(drain.refusal()))
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self.close_sent:
            self._after_close += len(data)
            if self._after_close > MAX_AFTER_CLOSE:
                self.transport.abort()
        for start in range(0, len(data), SLICE_BYTES):
            if self._is_deaf or self.transport.is_closing():
                return
            super().data_received(data[start : start + SLICE_BYTES])
        if not self.handshake_initiated and self.conn.handshake_exc is not None:
            # `websockets` read no request from it; uvicorn would wait for one for ever.
            self.handshake_complete = self.close_sent = True
            error = TokenrelayError("INVALID_REQUEST", "this is not a WebSocket handshake (RFC 6455 section 4.1)")
            self.transport.write(refusal(error))
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._whole()
        super().connection_lost(exc)

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        _drop_later(self.loop, self.transport)

    def start_keepalive(self) -> None:
        """The handshake is over: what it said, and we to it, takes 4 KiB."""
        super().start_keepalive()
        self.request = self.response = None  # type: ignore[assignment]
        self.scope["headers"] = []

    # -- frames
    # ----------------------------------------------------------------------------------------------------------

    def handle_text(self, event: Frame) -> None:
        self._begin(event)
        super().handle_text(event)

    def handle_bytes(self, event: Frame) -> None:
        self._begin(event)
        super().handle_bytes(event)

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= MAX_FRAGMENTS:
            self._flood(f"a message has at most {MAX_FRAGMENTS} fragments")
            return
        super().handle_cont(event)

    def handle_ping(self) -> None:
        # A pong is written whether the peer reads or not: one that does not is a flood as well.
        if not self._control.take(self.loop.time()) or not self.writable.is_set():
            self._flood("too many pings")
            return
        super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        if not self._control.take(self.loop.time()):
            self._flood("too many pongs")
            return
        super().handle_pong(event)

    def send_receive_event_to_app(self) -> None:
        self._whole()
        if self.curr_msg_data_type == "text" and not self.close_sent and not _is_text(self.frames):
            self._refuse(Close.INVALID_TEXT, "not UTF-8")  # uvicorn would log a traceback for each
            return
        if self.queue.qsize() >= MAX_QUEUED:
            self._flood("too many messages")
            return
        super().send_receive_event_to_app()

    def _begin(self, event: Frame) -> None:
        if not event.fin:
            self._deadline = self.loop.call_later(self._bounds.read_timeout_s, self._late)

    def _whole(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        if self.read_paused:  # it is not the peer who is late
            self._deadline = self.loop.call_later(self._bounds.read_timeout_s, self._late)
            return
        self._flood("the rest of a message did not come in time")

    def _flood(self, reason: str) -> None:
        self._refuse(Close.POLICY, reason)

    def _refuse(self, code: Close, reason: str) -> None:
        """Say so and close; what is still in the buffers is not looked at."""
        if self.close_sent or self.transport.is_closing():
            return
        log.info("socket_refused", code=int(code), reason=reason)
        self._whole()
        self.stop_keepalive()
        self.frames = []
        self._is_deaf = self.close_sent = True
        self.conn.fail(int(code), reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.resume_reading()  # and throw away
        self.close_timer = self.loop.call_later(FAREWELL_S, self.transport.abort)
        self.queue.put_nowait({"type": "websocket.disconnect", "code": int(code), "reason": reason})


def _is_text(parts: list[bytes]) -> bool:
    try:
        b"".join(parts).decode()
    except UnicodeDecodeError:
        return False
    return True
