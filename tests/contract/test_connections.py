"""A connection to Redis that was cut is one that is made anew, whoever notices it and however."""

from __future__ import annotations

import asyncio

import uvloop

from tests.fleet import Fleet
from tests.stores import open_store
from tokenrelay.protocol.runtime.redis import wire_of


def test_a_connection_that_was_cut_while_it_lay_in_the_pool() -> None:
    async def scene(url: str) -> None:
        redis = open_store(url).redis
        try:
            await redis.set("name", "value")
            connection = await redis.connection_pool.get_connection()
            wire_of(connection)[1].transport.abort()
            await redis.connection_pool.release(connection)
            await asyncio.sleep(0)
            assert await redis.get("name") == b"value"
            connection = await redis.connection_pool.get_connection()
            wire_of(connection)[1].transport.abort()
            await redis.connection_pool.release(connection)
            pipe = redis.pipeline(transaction=False)
            pipe.get("name")
            assert await pipe.execute() == [b"value"]
        finally:
            await redis.aclose(close_connection_pool=True)

    with Fleet(edges=0, workers=0) as fleet:
        uvloop.run(scene(fleet.redis_url))
