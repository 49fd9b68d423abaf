"""What a response writes within one block leaves in one write: the same bytes as without it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from tests.server.net.test_direct import cycle_on
from tokenrelay.server.net.one_write import one_write


class Transport:
    """Keeps every write, and what was written when it was closed."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.before_closing: bytes | None = None  # None while it is open
        self.is_lost = False

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def is_closing(self) -> bool:
        return self.is_lost or self.before_closing is not None

    def close(self) -> None:
        self.before_closing = b"".join(self.writes)

    def get_write_buffer_size(self) -> int:
        return 7


async def answer(cycle: RequestResponseCycle) -> None:
    send = cast(Any, cycle.send)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"b")]})
    await send({"type": "http.response.body", "body": b"one", "more_body": True})
    await send({"type": "http.response.body", "body": b"two", "more_body": False})


async def held(cycle: RequestResponseCycle) -> None:
    with one_write(cast(Any, cycle.send)):
        await answer(cycle)


@pytest.mark.parametrize("keep_alive", [True, False])
def test_the_same_bytes_in_one_write(keep_alive: bool) -> None:
    plain, together = Transport(), Transport()
    cycle = cycle_on(together, keep_alive=keep_alive)
    asyncio.run(answer(cycle_on(plain, keep_alive=keep_alive)))
    asyncio.run(held(cycle))
    assert together.writes == [b"".join(plain.writes)]
    assert together.before_closing == plain.before_closing
    assert cast(Any, cycle.transport) is together


def test_within_the_block_it_is_the_transport_in_all_else() -> None:
    transport = Transport()
    cycle = cycle_on(transport)
    with one_write(cast(Any, cycle.send)):
        assert cast(Any, cycle.transport).get_write_buffer_size() == 7


def test_nothing_is_written_to_one_that_is_gone() -> None:
    transport = Transport()
    cycle = cycle_on(transport)
    with one_write(cast(Any, cycle.send)):
        cycle.transport.write(b"late")
        transport.is_lost = True
    assert transport.writes == []


def test_what_was_written_before_a_failure_leaves() -> None:
    transport = Transport()
    cycle = cycle_on(transport)

    def fails() -> None:
        with one_write(cast(Any, cycle.send)):
            cycle.transport.write(b"head")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fails()
    assert transport.writes == [b"head"]
    assert cast(Any, cycle.transport) is transport


def test_another_server_writes_as_it_likes() -> None:
    async def send(_: Any) -> None: ...

    with one_write(send):
        pass
