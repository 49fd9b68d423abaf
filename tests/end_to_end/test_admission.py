"""Who gets in and how far: connections of a key and of a process, the largest output, one generation for one key."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import Any

import aiohttp
import pytest
from websockets.exceptions import InvalidStatus

from tests.fleet import Fleet, one_server
from tests.raw import Raw
from tests.wire import Sse, Ws, call, start, text_of, words
from tokenrelay.protocol.store import keys, worker_registry
from tokenrelay.protocol.store.worker_registry import Offer

CHAT = "/api/chat"
ALICE = {"Authorization": "Bearer alice-secret"}
BOB = {"Authorization": "Bearer bob-secret"}
SILENT = "scripted?tokens=1&stall_after=0"
ASK = {"message": "a", "model": "scripted?tokens=2&interval_ms=0"}


def number_of_streams(fleet: Fleet) -> int:
    return len(list(fleet.redis().scan_iter("tr:*:meta", count=1000)))


# -- connections
# ---------------------------------------------------------------------------------------------------------


def test_a_key_opens_so_many_connections_over_all_doors_and_no_more() -> None:
    async def scene(fleet: Fleet) -> None:
        url = fleet.urls[0]
        stream_id = await start(url, SILENT, ALICE)
        async with contextlib.AsyncExitStack() as held:
            await held.enter_async_context(Ws(url, headers=ALICE))
            await held.enter_async_context(Sse.get(url, stream_id, headers=ALICE))
            last = await held.enter_async_context(Sse.post(url, {"message": "a", "model": SILENT}, ALICE))
            before = number_of_streams(fleet)
            for method, path, body in (("POST", CHAT, ASK), ("GET", f"/api/streams/{stream_id}", None)):
                status, answer, heads = await call(method, url + path, body, ALICE)
                assert (status, answer["error_code"], answer["limit"], heads["Retry-After"]) == (
                    429,
                    "RATE_LIMIT",
                    3,
                    "1",
                )
                assert heads["X-RateLimit-Remaining"] == "0"
            async with Sse.post(url, ASK, ALICE) as refused:
                assert refused.status == 429
                assert (await refused.take())[0][1]["error_code"] == "RATE_LIMIT"
            with pytest.raises(InvalidStatus) as denied:
                await held.enter_async_context(Ws(url, headers=ALICE))
            assert denied.value.response.status_code == 429
            assert denied.value.response.headers["Retry-After"] == "1"
            assert number_of_streams(fleet) == before
            async with Ws(url, headers=BOB) as other:
                await other.say({"type": "ping"})
                await other.hear()
            status, _, _ = await call("GET", f"{url}/api/streams", headers=ALICE)
            assert status == 200  # only what stays open is counted
            last.response.close()
            await until_served(url)
        await until_served(url)

    async def until_served(url: str) -> None:
        """A place that was left is free again."""
        async with asyncio.timeout(20):
            while (await call("POST", url + CHAT, ASK, ALICE))[0] != 200:
                await asyncio.sleep(0.05)

    env = {"TOKENRELAY_API_KEYS": "alice:alice-secret,bob:bob-secret", "TOKENRELAY_KEY_CONNECTIONS": "3"}
    with Fleet(edges=1, workers=1, env=env) as fleet:
        asyncio.run(scene(fleet))


def test_a_process_takes_so_many_connections_and_tells_the_rest() -> None:
    async def scene(fleet: Fleet) -> None:
        url = fleet.urls[0]
        async with contextlib.AsyncExitStack() as held:
            for _ in range(5):
                await held.enter_async_context(Ws(url))
            for _ in range(5):
                await held.enter_async_context(Sse.post(url, {"message": "a", "model": SILENT}))
            before = number_of_streams(fleet)
            status, answer, heads = await call("POST", url + CHAT, ASK)
            assert (status, answer["error_code"], heads["Retry-After"]) == (503, "OVERLOADED", "2")
            async with Sse("POST", url + CHAT, {"Accept": "text/event-stream"}, {**ASK, "stream": True}) as refused:
                assert refused.status == 503
                assert (await refused.take())[0][1]["error_code"] == "OVERLOADED"
            with pytest.raises(InvalidStatus) as denied:
                await held.enter_async_context(Ws(url))
            assert denied.value.response.status_code == 503
            assert denied.value.response.headers["Retry-After"] == "2"
            for path in ("/healthz", "/readyz", "/metrics"):  # who asks how it goes is told
                assert (await call("GET", url + path))[0] == 200
            assert number_of_streams(fleet) == before
            await many_more(url)
        async with asyncio.timeout(20):
            while (await call("POST", url + CHAT, ASK))[0] != 200:
                await asyncio.sleep(0.05)

    async def many_more(url: str) -> None:
        """Beyond those that are told, connections are dropped as they come."""
        async with contextlib.AsyncExitStack() as held:
            for _ in range(16):
                await held.enter_async_context(Raw(url))
            async with Raw(url) as last:
                assert await last.all() == b""

    with Fleet(edges=1, workers=1, env={"TOKENRELAY_MAX_CONNECTIONS": "10"}) as fleet:
        asyncio.run(scene(fleet))


# -- output
# --------------------------------------------------------------------------------------------------------------


def test_no_answer_is_longer_than_the_largest_output() -> None:
    async def scene(fleet: Fleet) -> None:
        url = fleet.urls[0]
        body: dict[str, Any] = {"message": "a", "model": "scripted?tokens=50&interval_ms=0"}
        for asked, given in ((None, 7), (7, 7), (3, 3)):
            status, answer, _ = await call("POST", url + CHAT, {**body, "max_tokens": asked})
            assert (status, answer["response"], answer["finish_reason"]) == (200, words(given), "length")
        before = number_of_streams(fleet)
        status, answer, _ = await call("POST", url + CHAT, {**body, "max_tokens": 8})
        assert (status, answer["error_code"], answer["field"]) == (422, "VALIDATION_ERROR", "max_tokens")
        assert "7" in answer["issue"]
        async with Ws(url) as socket:
            await socket.say({"type": "start", "ref": "a", **body, "max_tokens": 8})
            assert (await socket.hear())["field"] == "max_tokens"
            stream_id = await socket.start(body)
            assert text_of(await socket.take(stream_id)) == words(7)
        assert number_of_streams(fleet) == before + 1

    with Fleet(edges=1, workers=1, env={"TOKENRELAY_MAX_OUTPUT_TOKENS": "7"}) as fleet:
        asyncio.run(scene(fleet))


# -- one key, one generation
# ---------------------------------------------------------------------------------------------


def test_fifty_equal_starts_at_once_over_three_edges_and_all_doors_are_one_generation() -> None:
    body = {"message": "hello", "model": "scripted?tokens=60&interval_ms=5"}

    async def over_sse(url: str) -> tuple[str, str]:
        async with Sse.post(url, body, {"Idempotency-Key": "fifty"}) as stream:
            return stream.stream_id, text_of(await stream.take())

    async def over_json(url: str) -> tuple[str, str]:
        status, answer, _ = await call("POST", url + CHAT, body, {"Idempotency-Key": "fifty"})
        assert status == 200
        return answer["stream_id"], answer["response"]

    async def over_ws(url: str) -> tuple[str, str]:
        async with Ws(url, binary=True) as socket:
            stream_id = await socket.start({**body, "idempotency_key": "fifty"})
            return stream_id, text_of(await socket.take(stream_id))

    async def scene(fleet: Fleet) -> None:
        ways = (over_sse, over_sse, over_json, over_ws)
        asked = (ways[number % 4](fleet.urls[number % 3]) for number in range(50))
        answers = await asyncio.gather(*asked)
        assert len(answers) == 50
        assert len({stream_id for stream_id, _ in answers}) == 1
        assert {text for _, text in answers} == {words(60)}
        [(stream_id, _), *_] = answers
        assert number_of_streams(fleet) == 1
        assert fleet.redis().xlen(keys.log(stream_id)) == 62  # started, the tokens, the end: written once
        _, listing, _ = await call("GET", f"{fleet.urls[2]}/api/streams")
        assert [row["stream_id"] for row in listing["streams"]] == [stream_id]

    with Fleet(edges=3, workers=2) as fleet:
        asyncio.run(scene(fleet))


# -- overload
# ---------------------------------------------------------------------------------------------------------


@one_server("it writes an offer")
def test_while_every_worker_is_late_only_new_streams_are_refused() -> None:
    """The test is the worker: it offers what one offers that has more to do than it can."""

    def offer(fleet: Fleet, name: str, *, is_late: bool) -> None:
        said = Offer(2**52, ("scripted",), {}, 1, 10, is_late=is_late)
        fleet.redis().hset(keys.WORKERS, name, worker_registry.pack(said))

    async def until(url: str, status: int) -> None:
        async with asyncio.timeout(20):
            while True:
                async with Sse.post(url, {"message": "a", "model": SILENT}) as asked:
                    if asked.status == status:
                        return
                await asyncio.sleep(0.1)

    async def scene(fleet: Fleet) -> None:
        url = fleet.urls[0]
        offer(fleet, "first", is_late=False)
        stream_id = await start(url, SILENT, {"Idempotency-Key": "known"})
        offer(fleet, "first", is_late=True)
        await until(url, 503)
        status, answer, heads = await call("POST", url + CHAT, ASK)
        assert (status, answer["error_code"], answer["retry_after"]) == (503, "OVERLOADED", 2)
        assert heads["Retry-After"] == "2"
        async with Sse.get(url, stream_id) as resumed:
            assert resumed.status == 200
        for key, wanted in (("known", (200, stream_id)), ("another", (503, ""))):  # a stream that is there is given
            async with Sse.post(url, {"message": "hello", "model": SILENT}, {"Idempotency-Key": key}) as asked:
                assert (asked.status, asked.response.headers.get("X-Stream-Id", "")) == wanted
        async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as told:
            assert re.search(r'^tokenrelay_shed_total\{by="worker"\} [1-9]', await told.text(), re.MULTILINE)
        offer(fleet, "second", is_late=False)
        await until(url, 200)

    with Fleet(workers=0, env={"TOKENRELAY_SHED_LAG_MS": "200"}) as fleet:
        asyncio.run(scene(fleet))
