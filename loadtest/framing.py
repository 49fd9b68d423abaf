"""HTTP/1.1 chunks and WebSocket frames (RFC 9112 section 7.1, RFC 6455 section 5) for a client; no socket."""

from __future__ import annotations

import os
from typing import Final

TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA
MAX_FRAME_BYTES: Final = 64 * 1024 * 1024


class BadFraming(ValueError):
    """The peer does not speak the protocol."""


class Dechunker:
    """Bytes of a chunked body in any pieces → what is in the chunks."""

    def __init__(self) -> None:
        self._held = b""  # the start of a size line, or the CRLF after a chunk
        self._left = 0  # of the chunk that is being read
        self.has_ended = False

    def feed(self, piece: bytes) -> bytes:
        """Raises BadFraming."""
        body: list[bytes] = []
        rest = self._held + piece
        self._held = b""
        while rest and not self.has_ended:
            if self._left:
                body.append(rest[: self._left])
                taken = len(body[-1])
                self._left -= taken
                rest = rest[taken:]
                continue
            start = 2 if rest.startswith(b"\r\n") else 0  # what closes the chunk before
            end = rest.find(b"\r\n", start)
            if end < 0:
                if len(rest) > 64:
                    raise BadFraming("a chunk's size has no end")
                self._held = rest
                break
            try:
                self._left = int(rest[start:end].partition(b";")[0], 16)
            except ValueError:
                raise BadFraming(f"not a chunk's size: {rest[start:end][:20]!r}") from None
            rest = rest[end + 2 :]
            self.has_ended = self._left == 0
        return b"".join(body)


class FrameReader:
    """Bytes from a WebSocket server in any pieces → (opcode, payload) of whole messages and control frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._opcode = 0  # of a message in several frames; 0 outside one
        self._parts: list[bytes] = []

    def feed(self, piece: bytes) -> list[tuple[int, bytes]]:
        """Raises BadFraming."""
        self._buffer += piece
        messages: list[tuple[int, bytes]] = []
        at = 0
        while (frame := self._frame(at)) is not None:
            at, is_last, opcode, payload = frame
            if opcode >= CLOSE:
                messages.append((opcode, payload))
                continue
            if opcode:
                self._opcode = opcode
            self._parts.append(payload)
            if is_last:
                messages.append((self._opcode, b"".join(self._parts)))
                self._parts, self._opcode = [], 0
        if at:
            del self._buffer[:at]
        return messages

    def _frame(self, at: int) -> tuple[int, bool, int, bytes] | None:
        """The frame that begins there, with where it ends; None when it is not whole yet."""
        buffer = self._buffer
        if len(buffer) < at + 2:
            return None
        first, size, begin = buffer[at], buffer[at + 1], at + 2
        if size & 0x80:
            raise BadFraming("a server masks no frame")
        if size >= 126:
            width = 2 if size == 126 else 8
            if len(buffer) < begin + width:
                return None
            size = int.from_bytes(buffer[begin : begin + width], "big")
            begin += width
        if size > MAX_FRAME_BYTES:
            raise BadFraming(f"a frame of {size} bytes")
        if len(buffer) < begin + size:
            return None
        return begin + size, bool(first & 0x80), first & 0x0F, bytes(buffer[begin : begin + size])


def client_frame(opcode: int, payload: bytes, mask: bytes | None = None) -> bytes:
    """One frame, masked as a client has to."""
    mask = os.urandom(4) if mask is None else mask
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 1 << 16:
        head = bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + size.to_bytes(8, "big")
    repeated = (mask * (size // 4 + 1))[:size]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return head + mask + masked.to_bytes(size, "big")
