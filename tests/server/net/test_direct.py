"""The short way to a transport writes what the long way writes, and only where that would not wait."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from tokenrelay.server.net.direct import Direct


class Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.held = 0
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return self.held

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True


def cycle_on(transport: object, method: str = "GET", *, keep_alive: bool = True) -> RequestResponseCycle:
    """One request that has been read, and no word of its response."""
    return RequestResponseCycle(
        scope=cast(Any, {"method": method, "http_version": "1.1"}), transport=cast(asyncio.Transport, transport),
        flow=FlowControl(cast(asyncio.Transport, transport)), logger=logging.getLogger(),
        access_logger=logging.getLogger(), access_log=False, default_headers=[], message_event=asyncio.Event(),
        expect_100_continue=False, keep_alive=keep_alive, on_response=lambda: None,
    )  # fmt: skip


async def begun(transport: Transport, method: str = "GET", **headers: str) -> RequestResponseCycle:
    """One whose head is written."""
    cycle = cycle_on(transport, method)
    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await cycle.send(cast(Any, {"type": "http.response.start", "status": 200, "headers": lines}))
    transport.written = b""
    return cycle


def response(transport: Transport, method: str = "GET", **headers: str) -> RequestResponseCycle:
    return asyncio.run(begun(transport, method, **headers))


def body_of(cycle: RequestResponseCycle, body: bytes, *, more: bool) -> None:
    asyncio.run(cycle.send({"type": "http.response.body", "body": body, "more_body": more}))


@pytest.mark.parametrize("size", [0, 1, 15, 16, 255, 4096, 70_000])
def test_both_ways_write_the_same(size: int) -> None:
    body = bytes(n % 251 for n in range(size))
    short, long = Transport(), Transport()
    direct = Direct.of(cast(Any, response(short).send))
    assert direct is not None
    direct.write(body)
    body_of(response(long), body, more=True)
    assert short.written == long.written


def test_not_where_the_long_way_would_wait_or_write_nothing() -> None:
    transport = Transport()
    cycle = response(transport)
    direct = Direct.of(cast(Any, cycle.send))
    assert direct is not None
    free = [direct.is_free]
    transport.held = 1
    free.append(direct.is_free)
    transport.held = 0
    cycle.disconnected = True
    free.append(direct.is_free)
    cycle.disconnected = False
    transport.is_closed = True
    free.append(direct.is_free)
    transport.is_closed = False
    body_of(cycle, b"", more=False)
    free.append(direct.is_free)
    assert free == [True, False, False, False, False]


def test_only_for_a_body_in_chunks() -> None:
    assert Direct.of(cast(Any, response(Transport(), content_length="3").send)) is None
    assert Direct.of(cast(Any, response(Transport(), "HEAD").send)) is None

    async def other(_: Any) -> None:
        """A server that is not ours."""

    assert Direct.of(other) is None
