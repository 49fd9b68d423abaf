"""One HTTP connection in memory: an edge's protocols over a transport that keeps what is written. Knows no test."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from uvicorn.server import ServerState

from tokenrelay.server.net.http_protocol import HttpProtocol
from tokenrelay.server.net.uvicorn_config import Config
from tokenrelay.server.net.ws_protocol import WebSocketProtocol

TURNS = 8
"""Of the loop, in which an application answers what it has."""


class Asked(NamedTuple):
    """A request as the application got it."""

    method: str
    path: str
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.protocol: asyncio.Protocol
        self._is_closing = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        self._is_closing = True

    abort = close

    def get_write_buffer_size(self) -> int:
        return 0

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Heard(NamedTuple):
    """What became of a connection: the requests that reached the application, what was answered, whether it is over."""

    asked: list[Asked]
    answered: bytes
    is_closed: bool
    messages: list[bytes | str]  # of a WebSocket

    @property
    def statuses(self) -> list[int]:
        return [int(line.split(b" ")[1]) for line in self.answered.split(b"\r\n") if line.startswith(b"HTTP/1.")]


async def say(parts: Sequence[bytes], *, at_once: bool = False, reads: bool = True) -> Heard:
    """Hand the parts to a new connection, whose application answers each request with its body (`reads` False: it
    refuses without a look at it); `at_once`: it has no turn between two of them."""
    asked: list[Asked] = []
    messages: list[bytes | str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (message := await receive())["type"] != "websocket.disconnect":
                text = message.get("text")
                messages.append(message["bytes"] if text is None else text)
            return
        body, more = b"", reads
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        asked.append(Asked(scope["method"], scope["path"], body, tuple(scope["headers"])))
        await send({"type": "http.response.start", "status": 200 if reads else 401, "headers": []})
        await send({"type": "http.response.body", "body": body})

    config = Config(app, ws=WebSocketProtocol, lifespan="off", log_config=None, ws_per_message_deflate=False)
    config.max_connections, config.read_timeout_s, config.max_body_bytes = 100, 5.0, 65_536
    config.load()
    transport, state = Transport(), ServerState()
    protocol = HttpProtocol(config, state, {}, asyncio.get_running_loop())
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    for part in parts:
        if transport.is_closing():
            break
        transport.protocol.data_received(part)
        if not at_once:
            await _turns()
    await _turns()
    heard = Heard(asked, bytes(transport.written), transport.is_closing(), messages)
    transport.protocol.connection_lost(None)
    await asyncio.gather(*state.tasks, return_exceptions=True)
    return heard


async def _turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)
