"""The writer on a real server: what was acknowledged and lost is written again, for ended logs too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from tests.contract.store import RETENTION_MS, Store
from tests.fleet import Fleet
from tests.stores import open_store
from tokenrelay.protocol.store import keys
from tokenrelay.workers.append import writer as module
from tokenrelay.workers.append.log import Log, News
from tokenrelay.workers.append.writer import Writer
from tokenrelay.workers.metrics import Metrics

WAIT_S = 20.0


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet(edges=0, workers=0) as fleet:
        yield fleet


def play(fleet: Fleet, scene: Callable[[Writer, Log, Store], Awaitable[None]]) -> None:
    """With a log that has four entries, the last one its end, all acknowledged."""

    async def main() -> None:
        told = Store(fleet.redis())
        told.redis.flushall()
        told.start()
        [claim] = told.claim()
        store = open_store(fleet.redis_url)
        writer = Writer(store, Metrics())
        running = asyncio.create_task(writer.run())
        news: list[News] = []
        log = Log(claim, RETENTION_MS, news.append, writer.mark, writer.ended)
        try:
            for number in range(3):
                log.append(b"entry %d" % number)
            log.end(b"the end", "completed")
            assert await writer.flushed(WAIT_S)
            assert log.is_closed
            await scene(writer, log, told)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await store.aclose()

    asyncio.run(main())


def lose_tail(told: Store) -> None:
    """As a replica would have it that became primary before it had the last three entries."""
    [first, *_] = told.entries()
    told.redis.delete(keys.log("stream-1"))
    told.redis.xadd(keys.log("stream-1"), {"e": first}, id="1-0")
    told.redis.hset(keys.meta("stream-1"), mapping={"last": 1, "state": "running"})


async def connected_again(told: Store, writer: Writer, *, is_watched: bool = True) -> None:
    before = writer.connects
    told.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")  # as Sentinel does
    if not is_watched:
        for lane in writer._lanes.values():
            lane.probe()
    async with asyncio.timeout(WAIT_S):
        while writer.connects == before:
            await asyncio.sleep(0.01)


def test_an_end_that_was_acknowledged_and_lost_is_written_again(fleet: Fleet) -> None:
    async def scene(writer: Writer, log: Log, told: Store) -> None:
        lose_tail(told)
        await connected_again(told, writer)
        async with asyncio.timeout(WAIT_S):
            while told.meta("state") != "completed":
                await asyncio.sleep(0.01)
        assert told.entries() == [b"entry 0", b"entry 1", b"entry 2", b"the end"]
        assert await writer.flushed(WAIT_S)
        assert log.is_closed
        assert not log.is_lost

    play(fleet, scene)


def test_an_end_that_is_there_stays_as_it_is(fleet: Fleet) -> None:
    async def scene(writer: Writer, log: Log, told: Store) -> None:
        before = told.log()
        for _ in range(2):
            await connected_again(told, writer)
            assert await writer.flushed(WAIT_S)
        assert told.log() == before
        assert log.is_closed

    play(fleet, scene)


def test_ended_logs_are_kept_for_a_while_only(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(writer: Writer, _: Log, told: Store) -> None:
        lose_tail(told)
        await connected_again(told, writer, is_watched=False)
        assert await writer.flushed(WAIT_S)
        assert told.meta("state") == "running"

    monkeypatch.setattr(module, "KEPT_S", 0.0)
    play(fleet, scene)
