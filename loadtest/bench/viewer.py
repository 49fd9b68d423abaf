"""One connection of the crowd: counts events without parsing them."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, Protocol, cast

from tokenrelay.loadtest.framing import PING, PONG, FrameReader, client_frame
from tokenrelay.protocol.wire.sse import HEARTBEAT

FIRST_TOKEN: Final = b'"w0 '  # more may stand beside it in one event
ID: Final = re.compile(rb"^id: (\d+)$", re.MULTILINE)
WRITTEN: Final = re.compile(rb'"timestamp": ?"([^"]+)"')


class Counts(Protocol):
    """What came, over all viewers of a crowd."""

    events: int
    bytes: int


class Viewer(asyncio.Protocol):
    """One connection. `reads` False: it takes nothing after the head."""

    def __init__(self, crowd: Counts, request: bytes, reads: bool) -> None:
        self._crowd = crowd
        self._request = request
        self._reads = reads
        self.transport: asyncio.Transport
        self.head = b""
        self.answered = asyncio.get_running_loop().create_future()  # of the status
        self.ended = asyncio.get_running_loop().create_future()
        self.sent_at = 0.0
        self.ended_at = 0.0
        self.last = b""  # the last piece that came
        self.watch: Callable[[Viewer, bytes], None] | None = None  # sees every piece while it is set
        self.ages_ms: list[float] | None = None  # of the oldest event in each piece; None: not looked at
        self.end_mark = b""  # what ends the stream where the server leaves the connection open

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods, not by its class
        self.sent_at = time.perf_counter()
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self.answered.done():
            self.head += data
            if b"\r\n\r\n" not in self.head:
                return
            self.head, _, data = self.head.partition(b"\r\n\r\n")
            self.answered.set_result(int(self.head[9:12]))
            if not self._reads:
                self.transport.pause_reading()
        self._crowd.events += data.count(b"\n\n")
        self._crowd.bytes += len(data)
        self.last = data
        if self.ages_ms is not None and (written := WRITTEN.search(data)):
            at = datetime.fromisoformat(written[1].decode()).timestamp()
            self.ages_ms.append((time.time() - at) * 1000)
        if self.watch is not None:
            self.watch(self, data)
        if self.end_mark and self.end_mark in data:
            self.transport.abort()

    def connection_lost(self, _: Exception | None) -> None:
        self.ended_at = time.perf_counter()
        if not self.answered.done():
            self.answered.set_result(0)
        if not self.ended.done():
            self.ended.set_result(None)

    @property
    def stream_id(self) -> str:
        found = re.search(rb"(?i)x-stream-id: (\S+)", self.head)
        return found[1].decode() if found else ""

    @property
    def last_id(self) -> int:
        return max(map(int, ID.findall(self.last)), default=0)


class Timed(Viewer):
    """Knows when the first token of the scripted model came."""

    first_token_at = 0.0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.answered.done() and self.answered.result() != 200:
            self.transport.abort()  # refused: it need not wait until the server closes
        if not self.first_token_at and FIRST_TOKEN in self.last:
            self.first_token_at = time.perf_counter()


class SseListener(Viewer):
    """Counts the heartbeats it gets, which are comments."""

    beats = 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.beats += data.count(HEARTBEAT)


class SocketListener(Viewer):
    """The same over a WebSocket, where they are pings, and wants answers."""

    beats = 0

    def __init__(self, crowd: Counts, request: bytes, reads: bool) -> None:
        super().__init__(crowd, request, reads)
        self._frames = FrameReader()

    def data_received(self, data: bytes) -> None:
        was_open = self.answered.done()
        super().data_received(data)
        if not self.answered.done():
            return
        for opcode, payload in self._frames.feed(data if was_open else self.last):
            if opcode == PING:
                self.beats += 1
                self.transport.write(client_frame(PONG, payload))


def beats_of(viewers: list[Viewer]) -> dict[str, Any]:
    """How many of a group are open still, and the heartbeats of the one that got the fewest and the most."""
    counts = [viewer.beats for viewer in viewers if isinstance(viewer, SseListener | SocketListener)]
    return {"open": sum(not viewer.ended.done() for viewer in viewers), "fewest": min(counts), "most": max(counts)}
