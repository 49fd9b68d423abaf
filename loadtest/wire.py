"""Both transports over plain blocking sockets, which gevent makes cooperative; knows the wire, checks nothing.

Every event comes with the time at which the read that completed it returned. There is no line reader in between that
waits for more (Locust's `iter_lines` fills a kibibyte first).
"""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
import struct
import time
from typing import Any, Final, Self, TypeAlias
from urllib.parse import urlsplit

import msgpack

from tokenrelay.loadtest.framing import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    BadFraming,
    Dechunker,
    FrameReader,
    client_frame,
)
from tokenrelay.protocol.wire.sse import Decoder

READ_BYTES: Final = 65_536
MAX_HEAD_BYTES: Final = 65_536
SUBPROTOCOLS: Final = ("tokenrelay.v1.json", "tokenrelay.v1.msgpack")

DEBUG_TIMING: Final = "X-Debug-Timing: 1\r\n"
"""The completion then says where the time to the first token went."""

EventPair: TypeAlias = tuple[int | None, dict[str, Any]]


class WireError(Exception):
    """The server refused, went away, or did not speak as agreed. The text has no ids in it: it is counted by."""


class Target:
    """Where the fleet is and with what key. Raises ValueError for what is no http(s) URL."""

    def __init__(self, url: str, key: str | None = None) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"expected http://HOST:PORT or https://HOST:PORT, got {url!r}")
        self.is_tls = parts.scheme == "https"
        self.host = parts.hostname
        self.port = parts.port or (443 if self.is_tls else 80)
        self.netloc = parts.netloc.rpartition("@")[2]
        self.authorization = f"Authorization: Bearer {key}\r\n" if key else ""
        self._tls = ssl.create_default_context() if self.is_tls else None

    def __repr__(self) -> str:
        return f"<Target {self.netloc}>"

    def connect(self, timeout_s: float, receive_buffer: int | None = None) -> socket.socket:
        """Raises OSError."""
        made = socket.create_connection((self.host, self.port), timeout_s)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        return made if self._tls is None else self._tls.wrap_socket(made, server_hostname=self.host)


class Connection:
    """What both transports share: a socket, the times, and ways to end."""

    def __init__(self, target: Target, timeout_s: float, receive_buffer: int | None = None) -> None:
        begun = time.perf_counter()
        self.target = target
        try:
            self.socket = target.connect(timeout_s, receive_buffer)
        except OSError as error:
            raise WireError(f"cannot connect: {type(error).__name__}") from error
        self.connect_s = time.perf_counter() - begun
        self.sent_at = 0.0  # when the request's first byte went out
        self.stream_id = ""
        self.has_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def drop(self) -> None:
        """As a phone in a tunnel: no goodbye, what is in flight is gone."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def read(self) -> bytes:
        """What one read brings; empty at the end. Raises WireError when nothing comes in time or the line breaks."""
        try:
            return self.socket.recv(READ_BYTES)
        except TimeoutError:
            raise WireError("late: nothing came for longer than is allowed") from None
        except OSError as error:
            raise WireError(f"the connection broke: {type(error).__name__}") from error

    def write(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise WireError(f"the connection broke: {type(error).__name__}") from error

    def head(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in small letters, and what came after them."""
        raw = b""
        while b"\r\n\r\n" not in raw:
            if len(raw) > MAX_HEAD_BYTES or not (piece := self.read()):
                raise WireError("closed before it answered")
            raw += piece
        text, _, rest = raw.partition(b"\r\n\r\n")
        first, *lines = text.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        try:
            status = int(first.split(" ", 2)[1])
        except (IndexError, ValueError):
            raise WireError("the answer is not HTTP") from None
        return status, {name.lower(): value.strip() for name, _, value in pairs}, rest


class Sse(Connection):
    """One SSE response: `start` or `resume`, then `events` until `has_closed`."""

    def __init__(self, target: Target, timeout_s: float, receive_buffer: int | None = None) -> None:
        super().__init__(target, timeout_s, receive_buffer)
        self._early = b""  # came with the head
        self._chunks: Dechunker | None = None  # None: the body is not chunked
        self._decoder = Decoder()
        self._last = ""

    def start(self, model: str) -> None:
        body = json.dumps({"message": "hello", "model": model, "stream": True}).encode()
        head = f"{DEBUG_TIMING}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self._ask("POST", "/api/chat", head, body)

    def resume(self, stream_id: str, after: int) -> None:
        self._ask("GET", f"/api/streams/{stream_id}", f"Last-Event-ID: {after}\r\n")

    def events(self) -> list[EventPair]:
        """What the next read completes; it may be nothing."""
        piece = self._early or self.read()
        self._early = b""
        if not piece:
            self.has_closed = True
            return []
        try:
            frames = self._decoder.feed(self._chunks.feed(piece) if self._chunks is not None else piece)
        except ValueError as error:
            raise WireError(f"not the protocol: {error}") from error
        if self._chunks is not None and self._chunks.has_ended:
            self.has_closed = True
        events: list[EventPair] = []
        for frame in frames:
            is_new = bool(frame.event_id) and frame.event_id != self._last
            self._last = frame.event_id
            events.append((int(frame.event_id) if is_new else None, json.loads(frame.data)))
        return events

    def _ask(self, method: str, path: str, headers: str, body: bytes = b"") -> None:
        head = f"{method} {path} HTTP/1.1\r\nHost: {self.target.netloc}\r\nConnection: close\r\n"
        head += f"Accept: text/event-stream\r\n{self.target.authorization}{headers}\r\n"
        self.sent_at = time.perf_counter()
        self.write(head.encode() + body)
        status, answered, self._early = self.head()
        if status == 204:
            self.has_closed = True
        elif status != 200:
            raise WireError(f"refused with {status}")
        self._chunks = Dechunker() if answered.get("transfer-encoding") == "chunked" else None
        self.stream_id = answered.get("x-stream-id", "")


class WebSocket(Connection):
    """One socket for one stream, in either subprotocol."""

    def __init__(
        self, target: Target, timeout_s: float, receive_buffer: int | None = None, *, subprotocol: str = SUBPROTOCOLS[0]
    ) -> None:
        super().__init__(target, timeout_s, receive_buffer)
        begun = time.perf_counter()
        self._binary = subprotocol.endswith("msgpack")
        key = base64.b64encode(os.urandom(16)).decode()
        self.write(
            f"GET /api/ws HTTP/1.1\r\nHost: {target.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {subprotocol}\r\n"
            f"{DEBUG_TIMING}{target.authorization}\r\n".encode()
        )
        status, _, early = self.head()
        self._early: bytes = early
        if status != 101:
            raise WireError(f"refused with {status}")
        self.connect_s += time.perf_counter() - begun
        self._reader = FrameReader()

    def start(self, model: str) -> None:
        self._say({"type": "start", "ref": "s", "message": "hello", "model": model})

    def resume(self, stream_id: str, after: int) -> None:
        self.stream_id = stream_id
        self._say({"type": "resume", "ref": "r", "stream_id": stream_id, "after": after})

    def events(self) -> list[EventPair]:
        """What the next read completes; it may be nothing."""
        piece = self._early or self.read()
        self._early = b""
        if not piece:
            self.has_closed = True
            return []
        try:
            frames = self._reader.feed(piece)
        except BadFraming as error:
            raise WireError(f"not the protocol: {error}") from error
        return [event for opcode, payload in frames for event in self._take(opcode, payload)]

    def _take(self, opcode: int, payload: bytes) -> list[EventPair]:
        if opcode == PING:
            self.write(client_frame(PONG, payload))
        elif opcode == CLOSE:
            self.has_closed = True
        if opcode not in (TEXT, BINARY):
            return []
        value = msgpack.unpackb(payload) if opcode == BINARY else json.loads(payload)
        return [pair for item in (value if isinstance(value, list) else [value]) for pair in self._message(item)]

    def _message(self, message: dict[str, Any]) -> list[EventPair]:
        kind = message.get("type")
        if kind == "started":
            self.stream_id = message["stream_id"]
            self.has_closed = bool(message.get("done"))
        elif kind == "error":
            raise WireError(f"refused with {message.get('error_code')}")
        elif kind == "event":
            return [(message.get("id"), message["data"])]
        return []

    def _say(self, message: dict[str, Any]) -> None:
        payload = msgpack.packb(message) if self._binary else json.dumps(message).encode()
        self.sent_at = time.perf_counter()
        self.write(client_frame(BINARY if self._binary else TEXT, payload))


def get_json(target: Target, path: str, timeout_s: float = 10.0) -> Any:
    """One plain GET. Raises WireError."""
    with Connection(target, timeout_s) as connection:
        head = f"GET {path} HTTP/1.1\r\nHost: {target.netloc}\r\nConnection: close\r\nAccept: application/json\r\n"
        connection.write(f"{head}{target.authorization}\r\n".encode())
        status, headers, body = connection.head()
        while piece := connection.read():
            body += piece
    if status != 200:
        raise WireError(f"GET {path.split('?')[0]} was refused with {status}")
    if headers.get("transfer-encoding") == "chunked":
        body = Dechunker().feed(body)
    try:
        return json.loads(body)
    except ValueError:
        raise WireError(f"GET {path.split('?')[0]} did not answer in JSON") from None
