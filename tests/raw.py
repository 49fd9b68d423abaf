"""Raw sockets for tests: bytes no library would send. Knows no test."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import struct
from typing import Any

PATIENCE_S = 20.0


class Raw:
    """One TCP connection. `async with Raw(url) as peer: await peer.say(b"…"); await peer.all()`."""

    def __init__(self, url: str, *, accepts_little: bool = False) -> None:
        self._port = int(url.rpartition(":")[2])
        self._accepts_little = accepts_little  # else loopback takes megabytes before anybody waits
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def __aenter__(self) -> Raw:
        ours = socket.socket()
        if self._accepts_little:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
        ours.setblocking(False)
        await asyncio.get_running_loop().sock_connect(ours, ("127.0.0.1", self._port))
        self.reader, self.writer = await asyncio.open_connection(sock=ours, limit=2**22)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    async def say(self, data: bytes | str) -> None:
        """Raises ConnectionError when the other side has closed."""
        self.writer.write(data if isinstance(data, bytes) else data.encode("latin-1"))
        await self.writer.drain()

    async def all(self) -> bytes:
        """Everything to the end of the connection. Raises TimeoutError when it does not end."""
        parts: list[bytes] = []
        async with asyncio.timeout(PATIENCE_S):
            try:
                while part := await self.reader.read(65_536):
                    parts.append(part)
            except ConnectionError:  # reset: an end as well
                pass
        return b"".join(parts)

    async def head(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def closed(self) -> bool:
        """Whether the other side closes in time, whatever it says before."""
        try:
            await self.all()
        except TimeoutError:
            return False
        return True

    # -- WebSocket
    # -------------------------------------------------------------------------------------------------------

    async def upgrade(self, subprotocol: str = "tokenrelay.v1.json", *headers: str) -> bytes:
        """The head of the answer."""
        await self.say(handshake(subprotocol, *headers))
        return await self.head()

    async def frame(self) -> tuple[int, bytes]:
        """The next frame's opcode and payload. Raises IncompleteReadError or ConnectionError at the end."""
        async with asyncio.timeout(PATIENCE_S):
            first, second = await self.reader.readexactly(2)
            size = second & 127
            if size == 126:
                [size] = struct.unpack("!H", await self.reader.readexactly(2))
            elif size == 127:
                [size] = struct.unpack("!Q", await self.reader.readexactly(8))
            return first & 15, await self.reader.readexactly(size)

    async def close_code(self) -> int | None:
        """That of the close frame; None when the connection ends without one. Other frames are passed over."""
        try:
            while True:
                opcode, payload = await self.frame()
                if opcode == 8:
                    return int(struct.unpack("!H", payload[:2])[0])
        except (asyncio.IncompleteReadError, ConnectionError):
            return None


def handshake(subprotocol: str = "tokenrelay.v1.json", *headers: str, method: str = "GET") -> str:
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        f"{method} /api/ws HTTP/1.1", "Host: 127.0.0.1", "Connection: Upgrade", "Upgrade: websocket",
        f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Protocol: {subprotocol}", *headers,
    ]  # fmt: skip
    return "\r\n".join([*lines, "", ""])


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, masked: bool = True, declared: int | None = None
) -> bytes:
    """RFC 6455 section 5.2; the mask is zero, so that the payload stays as it is."""
    size = len(payload) if declared is None else declared
    first = opcode | (128 if fin else 0)
    mask = 128 if masked else 0
    if size < 126:
        head = bytes([first, mask | size])
    elif size < 65_536:
        head = struct.pack("!BBH", first, mask | 126, size)
    else:
        head = struct.pack("!BBQ", first, mask | 127, size)
    return head + (b"\0\0\0\0" if masked else b"") + payload


def body_of(response: bytes) -> Any:
    """The JSON of a whole HTTP response."""
    return json.loads(response.partition(b"\r\n\r\n")[2])
