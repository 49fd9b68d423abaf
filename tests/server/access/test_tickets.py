"""Tickets on a real Redis: every edge takes every other's, over a change of the secret and after Redis forgot it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import jwt
import pytest

from tests.fleet import Fleet
from tests.stores import open_store
from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.runtime.stores.one_server import OneServer
from tokenrelay.protocol.store import keys
from tokenrelay.server.access import tickets as passes
from tokenrelay.server.access.tickets import TicketClaims, Tickets

ROTATE_S = 3600
GRANTED = TicketClaims("ann", None, None)


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet(edges=0, workers=0) as started:
        yield started


def play(fleet: Fleet, scene: Callable[[OneServer], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        redis = open_store(fleet.redis_url)
        try:
            await redis.redis.flushall()
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

    def period(self: Tickets) -> int:
        return int(time.time() // self._rotate_s) + gone[0]

    monkeypatch.setattr(Tickets, "_period", period)
    return go


async def refused(edge: Tickets, ticket: str) -> None:
    with pytest.raises(TokenrelayError) as caught:
        await edge.read(ticket)
    assert caught.value.code == "UNAUTHORIZED"


def test_what_one_edge_writes_another_reads(fleet: Fleet) -> None:
    async def scene(redis: OneServer) -> None:
        first, second = Tickets(redis, ROTATE_S), Tickets(redis, ROTATE_S)
        for granted in (GRANTED, TicketClaims("jwt:bob", "0" * 32, time.time() + 5)):
            assert await second.read(await first.write(granted)) == granted
        ages = [await redis.redis.ttl(name) for name in await redis.redis.keys("tr:secret:*")]
        assert len(ages) == 1
        assert 0 < ages[0] <= 3 * ROTATE_S

    play(fleet, scene)


def test_a_ticket_outlives_a_change_of_the_secret_and_no_second_one(
    fleet: Fleet, periods: Callable[[int], None]
) -> None:
    async def scene(redis: OneServer) -> None:
        first, second = Tickets(redis, ROTATE_S), Tickets(redis, ROTATE_S)
        ticket = await first.write(GRANTED)
        periods(1)
        fresh = await second.write(GRANTED)
        assert jwt.get_unverified_header(fresh)["kid"] != jwt.get_unverified_header(ticket)["kid"]
        for edge in (first, second, Tickets(redis, ROTATE_S)):
            assert await edge.read(ticket) == GRANTED
            assert await edge.read(fresh) == GRANTED
        secrets = {await redis.redis.get(name) for name in await redis.redis.keys("tr:secret:*")}
        assert len(secrets) == 2
        periods(1)
        await refused(first, ticket)
        assert await first.read(fresh) == GRANTED

    play(fleet, scene)


def test_an_edge_whose_clock_is_behind_takes_a_ticket_of_the_next_period(
    fleet: Fleet, periods: Callable[[int], None]
) -> None:
    async def scene(redis: OneServer) -> None:
        edge = Tickets(redis, ROTATE_S)
        periods(1)
        ticket = await edge.write(GRANTED)
        periods(-1)
        assert await edge.read(ticket) == GRANTED

    play(fleet, scene)


def test_no_fresh_ticket_is_refused_whatever_was_asked_before(fleet: Fleet) -> None:
    """Forged ones made the second edge look for a secret that nobody had made yet, and again after Redis forgot it."""

    async def scene(redis: OneServer) -> None:
        first, second = Tickets(redis, ROTATE_S), Tickets(redis, ROTATE_S)
        for _ in range(3):
            await redis.redis.flushall()
            await refused(second, forged(int(time.time() // ROTATE_S)))
            ticket = await first.write(GRANTED)
            assert await second.read(ticket) == GRANTED
            assert await first.read(ticket) == GRANTED

    play(fleet, scene)


def test_a_ticket_that_does_not_fit_while_redis_is_away_is_not_refused_for_good() -> None:
    async def main() -> None:
        nowhere = open_store("unix:///nowhere/redis.sock")
        try:
            edge = Tickets(nowhere, ROTATE_S)
            tickets = [edge.read(forged(int(time.time() // ROTATE_S))) for _ in range(20)]
            for outcome in await asyncio.gather(*tickets, return_exceptions=True):
                assert isinstance(outcome, TokenrelayError)
                assert outcome.code == "SERVICE_UNAVAILABLE"
        finally:
            await nowhere.aclose()

    asyncio.run(main())


def forged(kid: object) -> str:
    said = {"sub": "ann", "aud": "tokenrelay", "exp": int(time.time()) + 60}
    return jwt.encode(said, "f" * 32, "HS256", headers={} if kid is None else {"kid": str(kid)})


def test_forged_tickets_cost_redis_next_to_nothing(fleet: Fleet) -> None:
    async def scene(redis: OneServer) -> None:
        edge, other = Tickets(redis, ROTATE_S), Tickets(redis, ROTATE_S)
        await edge.write(GRANTED)
        period = int(time.time() // ROTATE_S)
        kids = (period, period + 1, "x", "", None, "1" * 5000, *range(period + 2, period + 20))
        before = await reads(redis)
        for _ in range(3):
            attack = [refused(edge, forged(kid)) for kid in kids for _ in range(20)]
            fresh = await other.write(GRANTED)
            *_, granted = await asyncio.gather(*attack, edge.read(fresh))
            assert granted == GRANTED
        assert await reads(redis) - before <= 6  # of 120 that named a period that can be

    play(fleet, scene)


def test_a_forged_ticket_waits_for_its_turn_to_be_looked_up(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(redis: OneServer) -> None:
        edge, period = Tickets(redis, ROTATE_S), int(time.time() // ROTATE_S)
        good = await edge.write(GRANTED)
        await refused(edge, forged(period))
        monkeypatch.setattr(passes, "AGAIN_S", 3600.0)
        before = await reads(redis)
        late = [asyncio.create_task(edge.read(forged(period))) for _ in range(10)]
        try:
            done, _ = await asyncio.wait(late, timeout=0.1)
            assert (done, await reads(redis) - before) == (set(), 0)
            assert await edge.read(good) == GRANTED  # nobody waits for them
        finally:
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    play(fleet, scene)


async def reads(redis: OneServer) -> int:
    """Of the secrets, because of tickets, since OneServer began."""
    return int((await redis.redis.info("commandstats")).get("cmdstat_mget", {"calls": 0})["calls"])


@pytest.mark.parametrize("changes", [{"exp": 1}, {"exp": None}, {"aud": "another"}, {"aud": None}, {"sub": None}])
def test_what_a_ticket_says_must_hold(fleet: Fleet, changes: dict[str, Any]) -> None:
    async def scene(redis: OneServer) -> None:
        edge = Tickets(redis, ROTATE_S)
        kid = jwt.get_unverified_header(await edge.write(GRANTED))["kid"]
        secret = await redis.redis.get(keys.secret(int(kid)))
        said = {"sub": "ann", "aud": "tokenrelay", "exp": int(time.time()) + 60, **changes}
        said = {name: value for name, value in said.items() if value is not None}
        await refused(edge, jwt.encode(said, secret, "HS256", headers={"kid": kid}))
        await refused(edge, jwt.encode(said, "", "none", headers={"kid": kid}))

    play(fleet, scene)
