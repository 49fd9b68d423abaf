"""The short way of an SSE reader and its pump write the same bytes, whatever state the transport is in meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.server.net.test_direct import Transport, begun, cycle_on
from tokenrelay.protocol.events import Completion
from tokenrelay.protocol.reading.session import Session
from tokenrelay.protocol.store.entries import Entry, pack, unpack_entry
from tokenrelay.protocol.wire import formats, sse
from tokenrelay.server.edge import Edge
from tokenrelay.server.http import Call
from tokenrelay.server.live.channel import Channel
from tokenrelay.server.metrics import Metrics
from tokenrelay.server.net.direct import Direct
from tokenrelay.server.settings import Settings
from tokenrelay.server.transports.sse import SseResponse

END = unpack_entry(pack(Completion(1, "m", "m", "p", "stop", 0, 0, 0.0)))


def entry(number: int) -> Entry:
    return ["t", 1_700_000_000_000 + number, "m", f"w{number} é\n"]


class Way(SseResponse):
    """Counts the turns of its pump."""

    waits = 0

    async def _wait(self) -> None:
        self.waits += 1
        await super()._wait()


async def read(entries: Sequence[Entry], seed: int, *, is_direct: bool) -> tuple[bytes, int]:
    """What one reader is sent, and how often its pump went to sleep."""
    transport, draw = Transport(), random.Random(seed)
    cycle = await begun(transport)
    edge = cast(Edge, SimpleNamespace(settings=Settings(), metrics=Metrics()))
    call = cast(Call, SimpleNamespace(send=cycle.send, write=lambda body, more=True: cycle.send(
        {"type": "http.response.body", "body": body, "more_body": more})))  # fmt: skip
    channel = Channel("s", 0.0, is_new=True)
    channel.feed.anchor(0)
    reader = Way(edge, call, Session("s", 0, is_compact=True, now=0.0), channel)
    if is_direct:
        reader._direct = Direct.of(cast(Any, cycle.send))
        assert reader._direct is not None
    channel.readers.add(reader)
    pump = asyncio.create_task(reader._pump())
    at = 0
    while at < len(entries):
        await asyncio.sleep(0)
        transport.held = draw.choice((0, 0, 0, 1))  # what waits in it makes no short write
        if not draw.randrange(5):
            reader._heartbeat_due = True
        count = draw.randint(1, 3)
        channel.feed.offer(at + 1, entries[at : at + count])
        at += count
        channel.wake()
        for _ in range(draw.randrange(3)):
            await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await pump
    return transport.written, reader.waits


def text(written: bytes) -> bytes:
    """The body without its chunks, whose number depends on who gathered what, and without heartbeats."""
    body = b""
    while written:
        size, _, rest = written.partition(b"\r\n")
        body += rest[: int(size, 16)]
        written = rest[int(size, 16) + 2 :]
    return body.replace(sse.HEARTBEAT, b"")


@pytest.mark.parametrize("seed", range(6))
def test_both_ways_write_every_event_once_and_in_order(seed: int) -> None:
    entries = [entry(number) for number in range(40)] + [END]
    expected = b"".join(formats.SSE.encode(each, number, "s") for number, each in enumerate(entries, 1))
    short, short_waits = asyncio.run(read(entries, seed, is_direct=True))
    long, long_waits = asyncio.run(read(entries, seed, is_direct=False))
    assert text(short) == expected
    assert text(long) == expected
    assert short_waits < long_waits  # the pump slept through what was written past it


class Writes(Transport):
    """Keeps each write."""

    def __init__(self) -> None:
        super().__init__()
        self.each: list[bytes] = []

    def write(self, data: bytes) -> None:
        super().write(data)
        self.each.append(data)

    def set_write_buffer_limits(self, high: int) -> None: ...


async def answer(entries: Sequence[Entry]) -> list[bytes]:
    """All writes of a response whose entries are there when it begins."""
    transport = Writes()
    cycle = cycle_on(transport)
    edge = SimpleNamespace(settings=Settings(), metrics=Metrics(), enter=lambda _: None, connections=set())

    async def start(status: int, headers: Any, *raw: tuple[bytes, bytes]) -> None:
        await cycle.send(cast(Any, {"type": "http.response.start", "status": status, "headers": list(raw)}))

    call = SimpleNamespace(send=cycle.send, receive=cycle.receive, start=start, method="GET", write=lambda body,
        more=True: cycle.send({"type": "http.response.body", "body": body, "more_body": more}))  # fmt: skip
    channel = Channel("s", 0.0, is_new=True)
    channel.feed.anchor(0)
    channel.feed.offer(1, entries)
    session = Session("s", 0, is_compact=True, now=0.0)
    await SseResponse(cast(Edge, edge), cast(Call, call), session, channel)._run(b"data: first\n\n")
    return transport.each


def test_a_short_answer_is_two_writes() -> None:
    """The head with the edge's own first event, and everything to the end of the body."""
    head, rest = asyncio.run(answer([entry(1), END]))
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert head.endswith(b"data: first\n\n\r\n")
    assert rest.endswith(b"\n\n\r\n0\r\n\r\n")
