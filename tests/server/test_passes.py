"""Tickets on a real Redis: every edge takes every other's, over a change of the secret and after Redis forgot it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import jwt
import pytest
from redis.asyncio import Redis

from protocol import keys
from protocol.errors import TokenrelayError
from server import passes
from server.passes import Pass, Passes
from server.redis import open_pool
from tests.fleet import Fleet

ROTATE_S = 3600
GRANTED = Pass("ann", None, None)


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet(edges=0, workers=0) as started:
        yield started


def play(fleet: Fleet, scene: Callable[[Redis], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        redis = open_pool(fleet.redis_url)
        try:
            await redis.flushall()
            await scene(redis)
        finally:
            await redis.aclose()

    asyncio.run(main())


@pytest.fixture
def periods(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Go so many periods on."""
    gone = [0]

    def go(number: int) -> None:
        gone[0] += number

    def period(self: Passes) -> int:
        return int(time.time() // self._rotate_s) + gone[0]

    monkeypatch.setattr(Passes, "_period", period)
    return go


async def refused(edge: Passes, ticket: str) -> None:
    with pytest.raises(TokenrelayError) as caught:
        await edge.read(ticket)
    assert caught.value.code == "UNAUTHORIZED"


def test_what_one_edge_writes_another_reads(fleet: Fleet) -> None:
    async def scene(redis: Redis) -> None:
        first, second = Passes(redis, ROTATE_S), Passes(redis, ROTATE_S)
        for granted in (GRANTED, Pass("jwt:bob", "0" * 32, time.time() + 5)):
            assert await second.read(await first.write(granted)) == granted
        ages = [await redis.ttl(name) for name in await redis.keys("tr:secret:*")]
        assert len(ages) == 1
        assert 0 < ages[0] <= 3 * ROTATE_S

    play(fleet, scene)


def test_a_ticket_outlives_a_change_of_the_secret_and_no_second_one(
    fleet: Fleet, periods: Callable[[int], None]
) -> None:
    async def scene(redis: Redis) -> None:
        first, second = Passes(redis, ROTATE_S), Passes(redis, ROTATE_S)
        ticket = await first.write(GRANTED)
        periods(1)
        fresh = await second.write(GRANTED)
        assert jwt.get_unverified_header(fresh)["kid"] != jwt.get_unverified_header(ticket)["kid"]
        for edge in (first, second, Passes(redis, ROTATE_S)):
            assert await edge.read(ticket) == GRANTED
            assert await edge.read(fresh) == GRANTED
        secrets = {await redis.get(name) for name in await redis.keys("tr:secret:*")}
        assert len(secrets) == 2
        periods(1)
        await refused(first, ticket)
        assert await first.read(fresh) == GRANTED

    play(fleet, scene)


def test_an_edge_whose_clock_is_behind_takes_a_ticket_of_the_next_period(
    fleet: Fleet, periods: Callable[[int], None]
) -> None:
    async def scene(redis: Redis) -> None:
        edge = Passes(redis, ROTATE_S)
        periods(1)
        ticket = await edge.write(GRANTED)
        periods(-1)
        assert await edge.read(ticket) == GRANTED

    play(fleet, scene)


def test_edges_agree_again_after_redis_forgot_the_secret(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(redis: Redis) -> None:
        first, second = Passes(redis, ROTATE_S), Passes(redis, ROTATE_S)
        await second.read(await first.write(GRANTED))  # both know it now
        await redis.flushall()
        monkeypatch.setattr(passes, "AGAIN_S", 0.0)
        assert await second.read(await first.write(GRANTED)) == GRANTED

    play(fleet, scene)


def test_forged_tickets_cost_redis_next_to_nothing(fleet: Fleet) -> None:
    async def scene(redis: Redis) -> None:
        edge = Passes(redis, ROTATE_S)
        good = await edge.write(GRANTED)
        period = int(time.time() // ROTATE_S)
        said = {"sub": "ann", "aud": "tokenrelay", "exp": int(time.time()) + 60}
        before = (await redis.info("commandstats")).get("cmdstat_get", {"calls": 0})["calls"]
        for number in range(200):
            for kid in (str(period), str(period + 1), str(period + 2 + number), "x", "", None, "1" * 5000):
                await refused(edge, jwt.encode(said, "f" * 32, "HS256", headers={"kid": kid} if kid else {}))
        after = (await redis.info("commandstats"))["cmdstat_get"]["calls"]
        assert after - before < 100  # one a second and period, not one a ticket
        assert await edge.read(good) == GRANTED

    play(fleet, scene)


@pytest.mark.parametrize("changes", [{"exp": 1}, {"exp": None}, {"aud": "another"}, {"aud": None}, {"sub": None}])
def test_what_a_ticket_says_must_hold(fleet: Fleet, changes: dict[str, Any]) -> None:
    async def scene(redis: Redis) -> None:
        edge = Passes(redis, ROTATE_S)
        kid = jwt.get_unverified_header(await edge.write(GRANTED))["kid"]
        secret = await redis.get(keys.secret(int(kid)))
        said = {"sub": "ann", "aud": "tokenrelay", "exp": int(time.time()) + 60, **changes}
        said = {name: value for name, value in said.items() if value is not None}
        await refused(edge, jwt.encode(said, secret, "HS256", headers={"kid": kid}))
        await refused(edge, jwt.encode(said, "", "none", headers={"kid": kid}))

    play(fleet, scene)
