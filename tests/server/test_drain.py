"""Who goes when, as numbers: spread, in time, and never together."""

from __future__ import annotations

import asyncio
import math
import socket
import sys
from collections import Counter
from collections.abc import Callable

import pytest

from tests.stores import open_store
from tokenrelay.protocol.store.context import Context
from tokenrelay.protocol.wire import websocket
from tokenrelay.server import drain
from tokenrelay.server.access.auth import Identity
from tokenrelay.server.edge import Edge
from tokenrelay.server.net import peer
from tokenrelay.server.settings import Settings
from tokenrelay.server.transports.websocket import Socket


def test_a_thousand_are_spread_evenly_over_their_share_of_the_window() -> None:
    delays = drain.spread(1_000, 10.0)
    assert len(delays) == 1_000
    assert 0 <= min(delays) <= max(delays) <= 10 * drain.WINDOW_SHARE
    # Ten slots for each hundredth of the share: never more than one draw beyond that at either end.
    per_slot = Counter(int(delay / (10 * drain.WINDOW_SHARE / 100)) for delay in delays)
    assert set(per_slot.values()) <= {9, 10, 11}
    assert drain.spread(1_000, 10.0) != delays


def test_nobody_and_no_window() -> None:
    assert drain.spread(0, 10.0) == []
    assert drain.spread(3, 0.0) == [0.0, 0.0, 0.0]
    assert drain.late_s(-1.0) == 0.0
    assert 0 <= drain.late_s(100.0) <= drain.LATE_S


def test_connections_that_began_together_rotate_apart_and_with_zero_never() -> None:
    ends = [drain.end_of_age(100.0, 1_000.0) for _ in range(50)]
    assert 1_080 <= min(ends) < max(ends) <= 1_120
    assert len(set(ends)) > 40
    assert drain.end_of_age(0, 1_000.0) == math.inf


def test_a_reader_is_back_before_its_generation_takes_it_for_gone() -> None:
    from tokenrelay.workers.generation.generation import MIN_UNHEARD_S

    assert drain.COME_BACK_MS[1] / 1000 <= MIN_UNHEARD_S / 2
    assert all(drain.COME_BACK_MS[0] <= drain.come_back_ms() <= drain.COME_BACK_MS[1] for _ in range(100))


def test_a_peer_that_acknowledges_has_not_vanished_and_one_that_does_not_has() -> None:
    """The kernel's own record first; then one as it looks after a while with the network gone (tests/end_to_end/
    test_viewers.py takes a real one away)."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer.keep_alive(listener, 15)
        with socket.create_connection(listener.getsockname()) as client:
            server, _ = listener.accept()
            with server:
                assert server.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                server.sendall(b"x")
                assert client.recv(1) == b"x"
                assert not peer.is_silent(server, 0.0)


def test_what_is_no_tcp_socket_has_not_vanished() -> None:
    async def send(_: object) -> None: ...

    assert not peer.has_vanished(send, 0.0)


class _Peer:
    """What is behind an ASGI `send`: a transport whose socket's record says that the other end owes us something."""

    def __init__(self, silent_ms: int) -> None:
        self.transport = self
        self.was_aborted = False
        self._record = bytearray(60)
        self._record[24:28] = (1).to_bytes(4, sys.byteorder)
        self._record[56:60] = silent_ms.to_bytes(4, sys.byteorder)

    async def send(self, _: object) -> None: ...

    def get_extra_info(self, _: str) -> _Peer:
        return self

    def getsockopt(self, *_: object) -> bytes:
        return bytes(self._record)

    def abort(self) -> None:
        self.was_aborted = True


@pytest.mark.parametrize(("silent_ms", "is_gone"), [(7_000, False), (8_000, True)])
def test_a_socket_whose_other_end_owes_an_answer_for_half_a_heartbeat_is_dropped(silent_ms: int, is_gone: bool) -> None:
    async def scene() -> None:
        edge = Edge(Settings(heartbeat_s=15), open_store("redis://127.0.0.1:1"))
        peer = _Peer(silent_ms)
        Socket(edge, websocket.JSON, Identity("somebody", "nobody"), peer.send, Context()).look()
        assert peer.was_aborted is is_gone
        assert edge.metrics.vanished.labels("ws").values == [is_gone]

    asyncio.run(scene())


class Connection:
    """A connection that goes when it is told to."""

    def __init__(self, edge: Edge, can_return: bool) -> None:
        self._edge = edge
        self.can_return = can_return
        edge.enter(self)

    def close_soon(self) -> None:
        self._edge.connections.discard(self)

    def tick(self, now: float) -> None: ...

    def look(self) -> None: ...


def test_a_drain_sends_one_reader_in_each_slot_and_those_who_wait_last(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        edge = Edge(Settings(drain_s=10), open_store("redis://127.0.0.1:1"))
        delays: dict[bool, list[float]] = {True: [], False: []}

        def call_later(delay: float, close_soon: Callable[[], None]) -> None:
            delays[close_soon.__self__.can_return].append(delay)  # type: ignore[attr-defined]
            close_soon()

        for number in range(103):
            Connection(edge, can_return=number < 100)
        monkeypatch.setattr(asyncio.get_running_loop(), "call_later", call_later)
        await edge.drain()
        slots = [int(delay / (10 * drain.WINDOW_SHARE / 100)) for delay in delays[True]]
        assert sorted(slots) == list(range(100))
        assert delays[False] == [10 * drain.WINDOW_SHARE] * 3
        # One that was on its way when it began goes within a second.
        Connection(edge, can_return=True)
        assert 0 <= delays[True][-1] <= drain.LATE_S
        assert edge.is_draining

    asyncio.run(scene())
