"""An edge that leaves, and connections that have lasted long enough: advice, an end between two events, no loss."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.fleet import Fleet, one_server
from tests.network import Proxy
from tests.wire import PATIENCE_S, EventPair, Sse, Ws, call, start, text_of, whole, words
from tokenrelay.protocol.wire.sse import Decoder

LONG = "scripted?tokens=350&interval_ms=10"


async def raw_sse(url: str, stream_id: str) -> bytes:
    """Everything one connection says."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/api/streams/{stream_id}?replay=exact") as answer:
        return await answer.read()


async def until_draining(url: str) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            status, body, headers = await call("GET", f"{url}/readyz")
            if status == 503 and body["draining"]:
                assert headers["Connection"] == "close"
                return dict(body)
            await asyncio.sleep(0.01)


async def until_listed(url: str, number: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while len((await call("GET", f"{url}/api/streams"))[1]["streams"]) < number:
            await asyncio.sleep(0.05)


def test_a_draining_edge_refuses_what_is_new_with_advice_and_lets_answers_finish() -> None:
    async def scene(fleet: Fleet) -> None:
        leaving, staying = fleet.urls
        running = await start(staying, LONG)
        body = {"message": "hello", "model": "scripted?tokens=50&interval_ms=10"}
        waiting = asyncio.create_task(call("POST", f"{leaving}/api/chat", body))
        endless = {"message": "hello", "model": LONG}
        cut_off = asyncio.create_task(call("POST", f"{leaving}/api/chat", endless))
        # A reader keeps the drain from being over at once.
        async with Sse.get(leaving, running), Ws(leaving) as socket:
            await socket.say({"type": "ping", "ref": 1})
            await socket.hear()
            await until_listed(staying, 3)  # or those that wait would be refused as well
            fleet.edges[0].send_signal(signal.SIGTERM)
            assert (await until_draining(leaving))["status"] == "not ready"
            async with Sse.post(leaving, body) as refused_stream:
                [(_, event)] = await refused_stream.take()
                assert (refused_stream.status, event["error_code"], event["retryable"]) == (
                    503, "SERVICE_UNAVAILABLE", True
                )  # fmt: skip
            status, answer, headers = await call("POST", f"{leaving}/api/chat", body)
            assert (status, answer["error_code"], answer["retry_after"]) == (503, "SERVICE_UNAVAILABLE", 1)
            assert (headers["Retry-After"], headers["Connection"]) == ("1", "close")
            status, answer, _ = await call("GET", f"{leaving}/api/streams/{running}")
            assert (status, answer["retry_after"]) == (503, 1)
            with pytest.raises(InvalidStatus) as refused:
                await Ws(leaving).__aenter__()
            assert refused.value.response.status_code == 503
            assert refused.value.response.headers["Retry-After"] == "1"
        status, answer, _ = await waiting
        assert (status, answer["response"]) == (200, words(50))
        status, answer, _ = await cut_off
        assert (status, answer["error_code"], answer["retry_after"]) == (503, "SERVICE_UNAVAILABLE", 1)
        assert await asyncio.to_thread(fleet.edges[0].wait, 15) == 0
        assert text_of(await whole(staying, answer["stream_id"])) == words(350)

    with Fleet(edges=2, workers=1, env={"TOKENRELAY_DRAIN_S": "4"}) as fleet:
        asyncio.run(scene(fleet))


@one_server("calls to a cluster end after a second")
def test_who_waits_for_a_silent_redis_when_the_edge_goes_is_told_to_come_again() -> None:
    """Half open: Redis's connections are not closed, nothing passes. The edge goes before their timeout is over."""

    async def scene(fleet: Fleet, network: Proxy) -> None:
        url, other = fleet.urls
        stream_id = await start(url, "scripted?tokens=5&interval_ms=0")
        # Signed with a secret that only the other edge knows yet: this one has to ask Redis.
        ticket = (await call("POST", f"{other}/api/tickets", {}))[1]["ticket"]
        network.silence()
        calls = [
            ("GET", f"{url}/api/streams/{stream_id}", None),
            ("POST", f"{url}/api/streams/{stream_id}/cancel", None),
            ("POST", f"{url}/api/chat", {"message": "hello", "model": LONG}),
        ]
        waiting = [asyncio.create_task(call(*each)) for each in calls]
        handshake = asyncio.create_task(connect(f"{url}/api/ws?ticket={ticket}".replace("http", "ws", 1)).__aenter__())
        await asyncio.sleep(0.5)  # one that is late is refused in the same words
        fleet.edges[0].send_signal(signal.SIGTERM)
        for status, answer, headers in await asyncio.gather(*waiting):
            assert (status, answer["error_code"], answer["error"], headers.get("Retry-After")) == (
                503, "SERVICE_UNAVAILABLE", "this edge is being replaced; try again", "1",
            )  # fmt: skip
        with pytest.raises(InvalidStatus) as refused:
            await handshake
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["Retry-After"] == "1"
        assert json.loads(refused.value.response.body)["error_code"] == "SERVICE_UNAVAILABLE"
        network.flow()
        assert await asyncio.to_thread(fleet.edges[0].wait, 15) == 0
        assert fleet.tracebacks() == "", fleet.tracebacks()

    with Proxy() as network:
        env = {"TOKENRELAY_REDIS_URL": f"redis://127.0.0.1:{network.port}", "TOKENRELAY_DRAIN_S": "1"}
        fleet = Fleet(edges=2, workers=1, env=env)
        network.target = fleet.redis_path
        with fleet:
            asyncio.run(scene(fleet, network))


def test_a_socket_with_a_stream_that_never_pauses_is_closed_all_the_same() -> None:
    async def scene(fleet: Fleet) -> None:
        stream_id = await start(fleet.urls[0], "scripted?tokens=1000000&interval_ms=0")
        async with Ws(fleet.urls[0]) as socket:
            await socket.resume(stream_id, 0, replay="exact")
            await socket.hear()
            fleet.edges[0].send_signal(signal.SIGTERM)
            while (message := await socket.hear())["type"] != "reconnect":
                pass
            assert 100 <= message["after_ms"] <= 1_000
            with pytest.raises(ConnectionClosed) as closed:
                await socket.hear()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
        await call("DELETE", f"{fleet.urls[1]}/api/streams/{stream_id}")

    with Fleet(edges=2, workers=1) as fleet:
        asyncio.run(scene(fleet))


def test_connections_rotate_with_a_retry_and_a_cursor_and_every_token_comes_once() -> None:
    async def over_sse(url: str, stream_id: str) -> tuple[int, list[EventPair]]:
        connections, cursor = 0, None
        events: list[EventPair] = []
        while not events or not events[-1][1]["done"]:
            connections += 1
            async with Sse.get(url, stream_id, cursor) as stream:
                events += await stream.take()
                cursor = events[-1][0]
        return connections, events

    async def over_ws(url: str, stream_id: str) -> tuple[int, list[EventPair]]:
        connections, cursor = 0, None
        events: list[EventPair] = []
        while not events or not events[-1][1]["done"]:
            connections += 1
            async with Ws(url, binary=True) as socket:
                await socket.resume(stream_id, cursor)
                while (message := await socket.hear())["type"] != "reconnect":
                    events.append((message["id"], message["data"]))
                    if message["data"]["done"]:
                        break
                else:
                    with pytest.raises(ConnectionClosed) as closed:
                        await socket.hear()
                    assert closed.value.rcvd is not None
                    assert closed.value.rcvd.code == 1012
                cursor = events[-1][0]
        return connections, events

    async def scene(fleet: Fleet) -> None:
        url = fleet.urls[0]
        stream_id = await start(url, "scripted?tokens=400&interval_ms=10")
        first = asyncio.create_task(raw_sse(url, stream_id))
        for connections, events in await asyncio.gather(over_sse(url, stream_id), over_ws(url, stream_id)):
            assert connections >= 3
            assert text_of(events) == words(400)
            ids = [entry_id or 0 for entry_id, _ in events]
            assert ids == sorted(set(ids))
        raw = await first
        assert raw.endswith(b"\n\n")
        *_, last = raw.rstrip(b"\n").rsplit(b"\n\n", 1)
        name, value = last.decode().split(": ")
        assert name == "retry"
        assert 100 <= int(value) <= 1_000
        decoder = Decoder()
        assert len(list(decoder.feed(raw))) == raw.count(b"\nid: ")
        assert decoder.retry_ms == int(value)

    with Fleet(edges=1, workers=1, env={"TOKENRELAY_ROTATE_S": "1"}) as fleet:
        asyncio.run(scene(fleet))


def test_a_drain_does_not_cancel_what_stops_without_readers() -> None:
    """`on_disconnect: cancel` is about readers that leave, not about an edge that sends its reader elsewhere."""

    async def scene(fleet: Fleet) -> None:
        body = {"message": "hello", "model": "scripted?tokens=300&interval_ms=10", "on_disconnect": "cancel"}
        async with Sse.post(fleet.urls[0], body) as stream:
            stream_id = stream.stream_id
            fleet.edges[0].send_signal(signal.SIGTERM)
            events = await stream.take()
        assert stream.decoder.retry_ms is not None
        await asyncio.sleep(stream.decoder.retry_ms / 1000)
        async with Sse.get(fleet.urls[1], stream_id, events[-1][0]) as stream:
            events += await stream.take()
        assert (text_of(events), events[-1][1]["finish_reason"]) == (words(300), "stop")

    with Fleet(edges=2, workers=1) as fleet:
        asyncio.run(scene(fleet))


def test_an_edge_that_stood_still_gives_its_readers_everything() -> None:
    async def sse(url: str) -> str:
        body = {"message": "hello", "model": "scripted?tokens=600&interval_ms=10"}
        async with Sse.post(url, body) as stream:
            return text_of(await stream.take())

    async def socket(url: str) -> str:
        async with Ws(url) as client:
            stream_id = await client.start({"message": "hello", "model": "scripted?tokens=600&interval_ms=10"})
            return text_of(await client.take(stream_id))

    async def scene(fleet: Fleet) -> None:
        url = fleet.urls[0]
        readers = [asyncio.create_task(kind(url)) for kind in (sse, socket) for _ in range(5)]
        await asyncio.sleep(1)
        fleet.edges[0].send_signal(signal.SIGSTOP)
        await asyncio.sleep(4.8)  # longer than a probe may take, and most of the answer
        fleet.edges[0].send_signal(signal.SIGCONT)
        assert set(await asyncio.gather(*readers)) == {words(600)}
        await asyncio.to_thread(fleet.wait_until_ready)

    with Fleet(edges=1, workers=1) as fleet:
        asyncio.run(scene(fleet))
