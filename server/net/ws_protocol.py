"""One WebSocket connection: uvicorn's protocol with bounds, and `websockets`' handshake. Knows no command and no key.

What uvicorn leaves open: handshakes that cannot be read (they would stay open for ever), floods of control frames,
messages of endless fragments, a message whose rest never comes.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import Any, Final, cast

import structlog
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.frames import Frame
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.wire.websocket import Close
from tokenrelay.server import drain
from tokenrelay.server.access.limits import LARGE_BYTES_A_SECOND, Bucket, Place
from tokenrelay.server.net import peer, refusal
from tokenrelay.server.net.lean_event import LeanEvent, LeanQueue
from tokenrelay.server.net.uvicorn_config import Config

VERSION: Final = "13"
"""The one version there is (RFC 6455 section 4.1)."""

FAREWELL_S: Final = 1.0
"""Between our last word to a flood and the end: closed at once, what is unread would reset the connection before the
peer has heard it."""
MAX_AFTER_CLOSE: Final = 262_144

CONTROL_RATE: Final = 10.0
CONTROL_BURST: Final = 100.0
"""Pings and unasked pongs, a second and at once. Clients send one every 15 to 60 s."""
MAX_FRAGMENTS: Final = 1_024
MAX_QUEUED: Final = 1_024
MAX_EARLY_BYTES: Final = 16_384
"""What a client may send before its handshake is answered. It should send nothing (RFC 6455 section 4.1)."""
SLICE_BYTES: Final = 4_096
"""What is parsed before anybody looks: one read may hold 40,000 frames of six bytes."""

log = structlog.get_logger()


class Handshake(ServerProtocol):
    """The opening handshake; refuses in the form of our table."""

    def accept(self, request: Request) -> Response:
        if request.headers.get_all("Sec-WebSocket-Version") != [VERSION]:
            # RFC 6455 section 4.4, RFC 9110 section 15.5.22: 426, and which version is spoken here.
            self.accept_called = True
            return _response(TokenrelayError("UPGRADE_REQUIRED", f"expected Sec-WebSocket-Version: {VERSION}"))
        return super().accept(request)

    def reject(self, status: Any, text: str) -> Response:
        code = {405: "METHOD_NOT_ALLOWED", 500: "INTERNAL_ERROR"}.get(int(status), "INVALID_REQUEST")
        return _response(TokenrelayError(code, text.split("\n", 1)[0] if code == "INVALID_REQUEST" else None))


def _response(error: TokenrelayError) -> Response:
    """The answer as `websockets` takes it; the connection closes behind it."""
    answer = refusal.as_json(error, refusal.new_request_id())
    headers = Headers([(name.decode(), value.decode("latin-1")) for name, value in answer.headers])
    headers["Connection"] = "close" if "upgrade" not in headers else "close, Upgrade"
    return Response(answer.status, HTTPStatus(answer.status).phrase, headers, answer.body)


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket connection."""

    # As above: uvicorn has 40. Ours, and those of uvicorn's that differ from one connection to the next.
    __slots__ = (
        "_after_close", "_bounds", "_came", "_control", "_deadline", "_due", "_early", "_is_deaf", "_place", "client",
        "close_sent", "close_timer", "conn",
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
        self._early = b""  # what came before the handshake was answered
        self._due = 0.0  # when the message that has begun should be whole, by the loop's clock
        self._came = 0  # bytes since the last whole message
        self._place: Place | None = None  # among the large messages, while one arrives
        self._is_deaf = False  # a flood: what comes is not looked at

    def shutdown(self) -> None:
        """The edge goes. A handshake that still waits for something is told to come again, not uvicorn's 500."""
        if self.handshake_complete:
            super().shutdown()
            return
        self.stop_keepalive()
        self.handshake_complete = self.close_sent = True
        self.transport.write(refusal.as_bytes(drain.refusal()))
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self.handshake_initiated and not self.handshake_complete:
            self._early += data
            if len(self._early) > MAX_EARLY_BYTES:
                self.transport.abort()
            return
        if self.close_sent:
            self._after_close += len(data)
            if self._after_close > MAX_AFTER_CLOSE:
                self.transport.abort()
        for start in range(0, len(data), SLICE_BYTES):
            if self._is_deaf or self.transport.is_closing():
                return
            self._came += min(SLICE_BYTES, len(data) - start)
            if self._came > self._bounds.max_body_bytes and not self._has_place():
                return
            super().data_received(data[start : start + SLICE_BYTES])
        if not self.handshake_initiated and self.conn.handshake_exc is not None:
            # `websockets` read no request from it; uvicorn would wait for one for ever.
            self.handshake_complete = self.close_sent = True
            error = TokenrelayError("INVALID_REQUEST", "this is not a WebSocket handshake (RFC 6455 section 4.1)")
            self.transport.write(refusal.as_bytes(error))
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._whole()
        super().connection_lost(exc)

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        peer.drop_later(self.loop, self.transport)

    def start_keepalive(self) -> None:
        """The handshake is over: what it said, and we to it, takes 4 KiB."""
        super().start_keepalive()
        self.request = self.response = None  # type: ignore[assignment]
        self.scope["headers"] = []
        if self._early:
            early, self._early = self._early, b""
            self.data_received(early)

    # -- frames
    # ----------------------------------------------------------------------------------------------------------

    def handle_text(self, event: Frame) -> None:
        self._begin(event)
        super().handle_text(event)
        event.data = b""  # `websockets` keeps the last frame until the next one has come

    def handle_bytes(self, event: Frame) -> None:
        self._begin(event)
        super().handle_bytes(event)
        event.data = b""

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= MAX_FRAGMENTS:
            self._flood(f"a message has at most {MAX_FRAGMENTS} fragments")
            return
        super().handle_cont(event)
        event.data = b""

    def handle_ping(self) -> None:
        # A pong is written whether the peer reads or not: one that does not is a flood as well.
        if not self._control.take(self.loop.time()) or not self.writable.is_set():
            self._flood("too many pings")
            return
        self._forget_control()
        super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        if not self._control.take(self.loop.time()):
            self._flood("too many pongs")
            return
        self._forget_control()
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
            self._due = self.loop.time() + self._bounds.read_timeout_s

    def _forget_control(self) -> None:
        """What came was a ping or a pong; between the fragments of a message it counts all the same, within bounds."""
        if self._deadline is None:
            self._came = 0

    def _has_place(self) -> bool:
        """False: too many large messages are arriving already; the client shall come back."""
        if self._place is None:
            # Before its first message a client is known to be known, but not to us: one owner for each socket.
            self._place = Place(self._bounds.large_bodies, f"{id(self):x}")
        try:
            self._place.take()
        except TokenrelayError as error:
            self._refuse(Close.TRY_LATER, error.message)
            return False
        return True

    def _whole(self) -> None:
        self._came = 0
        if self._place is not None:
            self._place.leave()
            self._place = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        more_s = self._due + self._came / LARGE_BYTES_A_SECOND - self.loop.time()
        if self._place is not None and more_s > 0:
            self._deadline = self.loop.call_later(more_s, self._late)
            return
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
