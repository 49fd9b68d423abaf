"""What an edge reads of keys that are not what they should be: one such key costs its own stream, and no other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.contract.store import Store
from tests.fleet import Fleet
from tests.stores import open_store
from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.store import entries, keys
from tokenrelay.server.store.log import LogReader


def read(fleet: Fleet, scene: Callable[[LogReader], Awaitable[None]]) -> None:
    async def run() -> None:
        redis = open_store(fleet.redis_url)
        try:
            await scene(LogReader(redis))
        finally:
            await redis.aclose()

    asyncio.run(run())


def put(store: Store, stream_id: str) -> None:
    store.redis.hset(keys.meta(stream_id), mapping={"owner": "o", "state": "running", "last": 3})
    store.redis.zadd(keys.owner("o"), {stream_id: 1})


def test_a_stream_whose_metadata_is_of_another_kind_is_none_and_the_others_are_listed(
    fleet: Fleet, store: Store
) -> None:
    put(store, "a" * 32)
    store.redis.set(keys.meta("b" * 32), "no hash")
    store.redis.zadd(keys.owner("o"), {"b" * 32: 2})

    async def scene(reads: LogReader) -> None:
        assert await reads.describe("b" * 32) is None
        assert await reads.last_ids(["b" * 32, "a" * 32]) == [None, 3]
        store.redis.xadd(keys.log("a" * 32), {"e": b"x"}, id="3-0")
        assert [found.stream_id for found in await reads.of_owner("o")] == ["a" * 32]

    read(fleet, scene)


def test_a_log_of_another_kind_is_a_corrupt_one(fleet: Fleet, store: Store) -> None:
    store.redis.set(keys.log("a" * 32), "no stream")

    async def scene(reads: LogReader) -> None:
        with pytest.raises(entries.CorruptEntry):
            await reads.page("a" * 32, 0)

    read(fleet, scene)


def test_a_redis_that_is_away_is_said_to_be_and_a_fault_of_ours_is_not(fleet: Fleet, store: Store) -> None:
    async def scene(reads: LogReader) -> None:
        store.redis.set(keys.owner("o"), "no sorted set")
        with pytest.raises(Exception, match="WRONGTYPE"):
            await reads.of_owner("o")

    read(fleet, scene)

    async def nobody_there() -> None:
        redis = open_store("redis://127.0.0.1:1")
        with pytest.raises(TokenrelayError, match="cannot be reached"):
            await LogReader(redis).describe("a" * 32)
        await redis.aclose()

    asyncio.run(nobody_there())
