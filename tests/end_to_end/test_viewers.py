"""Who still reads: counted over all viewers on all edges and both transports, and those who vanish without a word."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.test_lifecycle import state_of, until_state
from tests.end_to_end.test_slow_readers import metric
from tests.fleet import Fleet, one_server, until
from tests.wire import PATIENCE_S, Sse, Ws, call
from tokenrelay.protocol.store import keys

LONG = "scripted?tokens=100000&interval_ms=20"
LONGER_THAN_ANY_DOUBT_S = 7.0
"""Four seconds without readers are `cancel`; a renewal and a look come on top."""


async def last_viewer_elsewhere(one: str, other: str, policy: str) -> None:
    """The one that asked goes; the one on the other edge, over the other transport, keeps it going."""
    async with Ws(other, binary=True) as socket:
        async with Sse.post(one, {"message": "hello", "model": LONG, "on_disconnect": policy}) as stream:
            stream_id = stream.stream_id
            await stream.take(3)
            await socket.resume(stream_id, 0)
        await asyncio.sleep(LONGER_THAN_ANY_DOUBT_S)
        assert (await state_of(one, stream_id))["state"] == "running"
        async with Sse.get(one, stream_id, 3) as stream:
            await socket.say({"type": "detach", "stream_id": stream_id})
            await stream.take(3)
    await until_state(one, stream_id, "cancelled")


async def back_in_time(one: str, other: str) -> None:
    async with Sse.post(one, {"message": "hello", "model": LONG, "on_disconnect": "grace:20"}) as stream:
        stream_id = stream.stream_id
        await stream.take(3)
    await asyncio.sleep(LONGER_THAN_ANY_DOUBT_S)
    async with Ws(other) as socket:
        await socket.resume(stream_id, 3)
        assert len(await socket.take(stream_id, 5)) == 5
        assert (await state_of(one, stream_id))["state"] == "running"
    await call("DELETE", f"{one}/api/streams/{stream_id}")


def test_viewers_are_counted_over_all_edges_and_both_transports(fleet: Fleet) -> None:
    async def scene() -> None:
        one, other = fleet.urls
        async with asyncio.TaskGroup() as group:
            group.create_task(last_viewer_elsewhere(one, other, "cancel"))
            group.create_task(last_viewer_elsewhere(other, one, "grace:1"))
            group.create_task(back_in_time(one, other))

    asyncio.run(scene())


def test_a_socket_that_answers_no_ping_is_gone_within_two_heartbeats() -> None:
    async def scene(fleet: Fleet) -> None:
        url = fleet.urls[0]
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"GET /api/ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        await reader.readuntil(b"\r\n\r\n")
        assert await metric(url, 'tokenrelay_sessions{transport="ws"}') == 1
        async with asyncio.timeout(PATIENCE_S):
            while await reader.read(1024):  # it reads, and says nothing
                pass
            while await metric(url, 'tokenrelay_sessions{transport="ws"}'):
                await asyncio.sleep(0.05)
        writer.transport.abort()

    with Fleet(edges=1, workers=0, env={"TOKENRELAY_HEARTBEAT_S": "1"}) as fleet:
        asyncio.run(scene(fleet))


# -- a network that goes away
# ----------------------------------------------------------------------------------------------


@one_server("a network of its own does not reach the cluster")
def test_readers_whose_network_goes_away_are_noticed_and_count_as_gone() -> None:
    _in_a_network_of_its_own(_vanish)


def _vanish() -> None:
    _set_loopback(is_up=True)

    async def scene(fleet: Fleet) -> None:
        body = {"message": "hello", "model": LONG, "on_disconnect": "cancel"}
        async with Sse.post(fleet.urls[0], body) as stream, Ws(fleet.urls[0]) as other:
            await stream.take(3)
            ids = (stream.stream_id, await other.start(body))
            # Not one packet passes any more, and no end hears of it; Redis is on a Unix socket.
            _set_loopback(is_up=False)
            redis = fleet.redis()
            for stream_id in ids:
                meta = keys.meta(stream_id)
                await asyncio.to_thread(until, lambda: redis.hget(meta, "state") == b"cancelled", "nobody reads it")  # noqa: B023
            assert "reader_vanished" in fleet.said()

    with Fleet(edges=1, workers=1, env={"TOKENRELAY_HEARTBEAT_S": "1"}) as fleet:
        asyncio.run(scene(fleet))


def _set_loopback(*, is_up: bool) -> None:
    """netdevice(7): the flags of `lo`."""
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", b"lo", 0x1 if is_up else 0))  # SIOCSIFFLAGS, IFF_UP


def _in_a_network_of_its_own(scene: Callable[[], None]) -> None:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_unshared, args=(scene,))
    process.start()
    process.join(60)
    if process.is_alive():
        process.kill()
    if process.exitcode == 77:
        # Whether a machine lends out namespaces is its operator's word, not something that can be installed.
        pytest.skip("this machine gives no network namespace")
    assert process.exitcode == 0


def _unshared(scene: Callable[[], None]) -> None:
    new_user, new_net = 0x10000000, 0x40000000  # unshare(2)
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(new_user | new_net):
        os._exit(77)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        Path(f"/proc/self/{name}").write_text(text)
    scene()
