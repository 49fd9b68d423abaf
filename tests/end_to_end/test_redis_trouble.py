"""Redis paused, restarted with and without its data, flushed of its scripts, full: nothing is lost, or it is said."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from tests.fleet import Fleet
from tests.wire import PATIENCE_S, EventPair, Sse, Ws, call, start, text_of, whole, words
from tokenrelay.protocol.store import keys

MODEL = "scripted?tokens=400&interval_ms=20"


async def viewer(url: str, number: int) -> list[EventPair]:
    body = {"message": "hello", "model": MODEL}
    if number % 2:
        async with Ws(url) as socket:
            return await socket.take(await socket.start(body))
    async with Sse.post(url, body) as stream:
        return await stream.take()


async def crowd(fleet: Fleet, trouble: Any) -> list[list[EventPair]]:
    """Ten viewers on two edges and both transports, trouble in the middle."""
    viewers = [asyncio.create_task(viewer(fleet.urls[number // 2 % 2], number)) for number in range(10)]
    await asyncio.sleep(1.5)
    await trouble()
    return list(await asyncio.gather(*viewers))


def test_a_pause_longer_than_every_lease_loses_nothing() -> None:
    async def scene(fleet: Fleet) -> None:
        async def trouble() -> None:
            fleet.signal_redis(signal.SIGSTOP)
            await asyncio.sleep(8)
            for url in fleet.urls:
                assert (await call("GET", f"{url}/readyz"))[0] == 503
            fleet.signal_redis(signal.SIGCONT)

        for events in await crowd(fleet, trouble):
            assert text_of(events) == words(400)
            assert events[-1][1]["finish_reason"] == "stop"

    with Fleet(edges=2, workers=1) as fleet:
        asyncio.run(scene(fleet))
        fleet.wait_until_ready()


def test_a_restart_with_its_data_loses_nothing() -> None:
    async def scene(fleet: Fleet) -> None:
        async def trouble() -> None:
            fleet.kill_redis()
            await asyncio.sleep(3)
            fleet.start_redis()

        for events in await crowd(fleet, trouble):
            assert text_of(events) == words(400)
            assert events[-1][1]["finish_reason"] == "stop"

    with Fleet(edges=2, workers=1, redis_options=("--appendonly", "yes", "--appendfsync", "always")) as fleet:
        asyncio.run(scene(fleet))


def test_a_restart_without_its_data_ends_every_reader_in_words_and_what_comes_next_works() -> None:
    async def scene(fleet: Fleet) -> None:
        async def reader(number: int) -> str:
            body = {"message": "hello", "model": MODEL}
            url = fleet.urls[number % 2]
            if number % 4 < 2:
                async with Sse.post(url, body) as stream:
                    return str((await stream.take())[-1][1]["error_code"])
            async with Ws(url) as socket:
                await socket.start(body)
                while (message := await socket.hear())["type"] == "event":
                    pass
                return str(message["error_code"])

        readers = [asyncio.create_task(reader(number)) for number in range(8)]
        await asyncio.sleep(1.5)
        fleet.kill_redis()
        fleet.start_redis()
        assert set(await asyncio.gather(*readers)) == {"STREAM_EXPIRED"}
        async with asyncio.timeout(PATIENCE_S):
            while (await call("GET", f"{fleet.urls[0]}/readyz"))[0] != 200:
                await asyncio.sleep(0.1)
        stream_id = await start(fleet.urls[0], "scripted?tokens=5&interval_ms=0")
        assert text_of(await whole(fleet.urls[1], stream_id)) == words(5)

    with Fleet(edges=2, workers=1) as fleet:
        asyncio.run(scene(fleet))


def test_scripts_that_redis_forgot_are_told_again(fleet: Fleet) -> None:
    async def scene() -> None:
        async with Sse.post(
            fleet.urls[0], {"message": "hello", "model": "scripted?tokens=50&interval_ms=20"}
        ) as stream:
            events = await stream.take(5)
            fleet.redis().script_flush()
            events += await stream.take()
        assert text_of(events) == words(50)
        fleet.redis().script_flush()
        again = await start(fleet.urls[1], "scripted?tokens=5&interval_ms=0")
        assert text_of(await whole(fleet.urls[0], again)) == words(5)

    asyncio.run(scene())


def test_a_full_redis_refuses_what_is_new_and_takes_up_what_was_written_meanwhile() -> None:
    async def scene(fleet: Fleet) -> None:
        redis = fleet.redis()

        async def trouble() -> None:
            redis.config_set("maxmemory", "1")
            status, answer, _ = await call("POST", f"{fleet.urls[0]}/api/chat", {"message": "a", "model": "scripted"})
            assert (status, answer["error_code"]) == (503, "SERVICE_UNAVAILABLE")
            await asyncio.sleep(2)
            redis.config_set("maxmemory", "0")

        for events in await crowd(fleet, trouble):
            assert text_of(events) == words(400)
        assert redis.zcard(keys.LEASES) == 0

    with Fleet(edges=2, workers=1) as fleet:
        asyncio.run(scene(fleet))
