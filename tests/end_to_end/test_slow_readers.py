"""Readers that take nothing: closed in time, cheap while they last, and in nobody's way."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

from tests.fleet import Fleet
from tests.wire import PATIENCE_S, Sse, call, start, text_of, whole, words

STALLED = 40


def stall(url: str, stream_id: str, more: str = "") -> socket.socket:
    """A client that asks for a stream and never reads."""
    host, port = url.removeprefix("http://").split(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)  # else loopback takes megabytes of it
    client.connect((host, int(port)))
    client.sendall(f"GET /api/streams/{stream_id}?replay=exact HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode())
    return client


def resident_kib(pid: int) -> int:
    line = next(row for row in Path(f"/proc/{pid}/status").read_text().splitlines() if row.startswith("VmRSS"))
    return int(line.split()[1])


async def metric(url: str, name: str) -> float:
    import aiohttp

    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def test_stalled_readers_are_closed_and_cost_little_and_can_come_back() -> None:
    async def scene(fleet: Fleet) -> None:
        url, pid = fleet.urls[0], fleet.edges[0].pid
        stream_id = await start(url, "scripted?tokens=30000&interval_ms=0")
        assert text_of(await whole(url, stream_id, replay="compact")) == words(30000)
        before = resident_kib(pid)
        clients = [stall(url, stream_id) for _ in range(STALLED)]
        try:
            async with asyncio.timeout(PATIENCE_S):
                while await metric(url, 'tokenrelay_sessions{transport="sse"}') < STALLED:
                    await asyncio.sleep(0.05)
                grown = resident_kib(pid) - before
                # The log of this stream is 3 MiB as events: held for each, it would be 120.
                assert grown < STALLED * 64, f"{grown} KiB for {STALLED} stalled readers"
                quick = await start(url, "scripted?tokens=50&interval_ms=1")
                assert text_of(await whole(url, quick)) == words(50)
                while await metric(url, "tokenrelay_send_timeouts_total") < STALLED:
                    await asyncio.sleep(0.1)
                while await metric(url, 'tokenrelay_sessions{transport="sse"}'):
                    await asyncio.sleep(0.1)
        finally:
            for client in clients:
                client.close()
        async with Sse.get(url, stream_id, 29_000, replay="exact") as stream:
            assert text_of(await stream.take()) == "".join(f"w{number} " for number in range(28_999, 30_000))

    with Fleet(edges=1, workers=1, env={"TOKENRELAY_SEND_TIMEOUT_S": "3"}) as fleet:
        asyncio.run(scene(fleet))


def test_a_socket_that_takes_nothing_is_closed() -> None:
    async def scene(fleet: Fleet) -> None:
        url = fleet.urls[0]
        stream_id = await start(url, "scripted?tokens=100000&interval_ms=0")
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        try:
            writer.write(
                f"GET /api/ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
            )
            await reader.readuntil(b"\r\n\r\n")
            message = json.dumps({"type": "resume", "stream_id": stream_id, "replay": "exact"}).encode()
            # RFC 6455 section 5.2: a client masks; a mask of zeros leaves the bytes as they are.
            writer.write(bytes([0x81, 0x80 | len(message)]) + b"\0\0\0\0" + message)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            async with asyncio.timeout(PATIENCE_S):
                while await metric(url, "tokenrelay_send_timeouts_total") < 1:
                    await asyncio.sleep(0.1)
                while await metric(url, 'tokenrelay_sessions{transport="ws"}'):
                    await asyncio.sleep(0.1)
        finally:
            writer.transport.abort()
        assert (await call("GET", f"{url}/healthz"))[0] == 200

    with Fleet(edges=1, workers=1, env={"TOKENRELAY_SEND_TIMEOUT_S": "2"}) as fleet:
        asyncio.run(scene(fleet))


def test_a_long_snapshot_is_whole_and_costs_little_while_nobody_reads_it() -> None:
    """It is written a page at a time: readers who accept nothing would otherwise hold the whole text each."""

    async def scene(fleet: Fleet) -> None:
        url, pid = fleet.urls[0], fleet.edges[0].pid
        stream_id = await start(url, "scripted?tokens=150000&interval_ms=0")
        assert text_of(await whole(url, stream_id, replay="compact")) == words(150000)
        _, state, _ = await call("GET", f"{url}/api/streams/{stream_id}", headers={"Accept": "application/json"})
        assert state["text"] == words(150000)
        assert (state["state"], state["finish_reason"], state["usage"]["output_tokens"]) == (
            "completed",
            "stop",
            150000,
        )
        before = resident_kib(pid)
        clients = [stall(url, stream_id, "Accept: application/json\r\n") for _ in range(STALLED)]
        try:
            async with asyncio.timeout(PATIENCE_S):
                while await metric(url, 'tokenrelay_send_timeouts_total{transport="json"}') < STALLED:
                    await asyncio.sleep(0.1)
            assert resident_kib(pid) - before < STALLED * 64
        finally:
            for client in clients:
                client.close()

    with Fleet(edges=1, workers=1, env={"TOKENRELAY_SEND_TIMEOUT_S": "3"}) as fleet:
        asyncio.run(scene(fleet))
