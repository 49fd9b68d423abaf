"""Health over several workers: what one saw the others know, nothing is counted twice, and one of all tries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from tests.fleet import Fleet
from tests.stores import open_store
from tokenrelay.protocol.models import circuit as records
from tokenrelay.protocol.models.catalogue import Choice, Model
from tokenrelay.protocol.models.circuit import Record
from tokenrelay.protocol.models.routing_rules import HealthRules
from tokenrelay.protocol.runtime.stores.one_server import OneServer
from tokenrelay.protocol.store import keys
from tokenrelay.workers.circuit import Circuits

RULES = HealthRules(open_after_failures=3, open_s=30, open_after_calls=1_000)
ROW = Model("a", "P", "anthropic", "up-a")
A = Choice(ROW, "up-a")


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet(edges=0, workers=0) as started:
        yield started


@pytest.fixture(autouse=True)
def _empty(fleet: Fleet) -> None:
    fleet.redis().flushall()


@asynccontextmanager
async def workers(fleet: Fleet, number: int) -> AsyncIterator[list[tuple[Circuits, OneServer]]]:
    pools = [open_store(fleet.redis_url) for _ in range(number)]
    try:
        yield [(Circuits(RULES, f"w{at}", 30.0), pool) for at, pool in enumerate(pools)]
    finally:
        for pool in pools:
            await pool.aclose()


def scene(fleet: Fleet, number: int, play: Callable[[list[tuple[Circuits, OneServer]]], Awaitable[None]]) -> None:
    async def run() -> None:
        async with workers(fleet, number) as made:
            await play(made)

    asyncio.run(run())


def rested(fleet: Fleet) -> None:
    """The rest of the one model is over: as if it had opened long ago."""
    redis = fleet.redis()
    record = msgspec.msgpack.decode(redis.hget(keys.HEALTH, "a"), type=Record)
    redis.hset(keys.HEALTH, "a", records.pack(msgspec.structs.replace(record, opened_at=record.opened_at - 100)))


def test_failures_of_several_workers_open_one_circuit(fleet: Fleet) -> None:
    async def play(made: list[tuple[Circuits, OneServer]]) -> None:
        for health, redis in made[:3]:
            health.failed(A)
            assert health.rest_s(A) == 0
            await health.sync(redis)
        last, redis = made[3]
        assert last.rest_s(A) == 0
        await last.sync(redis)
        assert 25 < last.rest_s(A) <= 30
        assert not await last.may_ask(redis, A)
        assert last.vitals()["a"].circuit == "open"

    scene(fleet, 4, play)
    assert 0 < fleet.redis().pttl(keys.HEALTH) <= records.KEPT_MS


def test_one_knows_its_own_failures_at_once(fleet: Fleet) -> None:
    async def play(made: list[tuple[Circuits, OneServer]]) -> None:
        [(health, redis)] = made
        for _ in range(3):
            health.failed(A)
        assert not await health.may_ask(redis, A)

    scene(fleet, 1, play)


def test_nothing_is_lost_or_counted_twice_when_all_write_at_once(fleet: Fleet) -> None:
    async def play(made: list[tuple[Circuits, OneServer]]) -> None:
        for _ in range(10):
            for health, _ in made:
                health.succeeded(A, 100.0)
            await asyncio.gather(*(health.sync(redis) for health, redis in made))
        for health, redis in made:
            await health.sync(redis)

    scene(fleet, 8, play)
    stored = records.unpack_all(fleet.redis().hgetall(keys.HEALTH))["a"]
    assert (stored.calls, round(stored.ttft_ms or 0)) == (80, 100)


async def open_it(made: list[tuple[Circuits, OneServer]], fleet: Fleet) -> None:
    health, redis = made[0]
    for _ in range(3):
        health.failed(A)
    await health.sync(redis)
    rested(fleet)
    for health, redis in made:
        await health.sync(redis)
        assert health.vitals()["a"].circuit == "half_open"


async def who_may(made: list[tuple[Circuits, OneServer]]) -> list[int]:
    """Four generations of each worker ask at once."""
    asked = [(at, health.may_ask(redis, A)) for at, (health, redis) in enumerate(made) for _ in range(4)]
    replies = await asyncio.gather(*(reply for _, reply in asked))
    return [at for (at, _), may in zip(asked, replies, strict=True) if may]


def test_exactly_one_of_all_workers_tries_and_its_success_closes_the_circuit(fleet: Fleet) -> None:
    async def play(made: list[tuple[Circuits, OneServer]]) -> None:
        await open_it(made, fleet)
        [trying] = await who_may(made)
        assert all(health.rest_s(A) > 0 for health, _ in made)
        health, redis = made[trying]
        health.succeeded(A, 50.0)
        assert health.rest_s(A) == 0
        for health, redis in [made[trying], *made]:
            await health.sync(redis)
            assert health.vitals()["a"].circuit == "closed"
        assert not await made[0][1].redis.exists(keys.trial("a"))
        assert len(await who_may(made)) == 4 * len(made)

    scene(fleet, 6, play)


def test_a_trial_that_fails_rests_longer_and_then_one_may_try_again(fleet: Fleet) -> None:
    async def play(made: list[tuple[Circuits, OneServer]]) -> None:
        await open_it(made, fleet)
        [trying] = await who_may(made)
        made[trying][0].failed(A)
        for health, redis in [made[trying], *made]:
            await health.sync(redis)
            assert 55 < health.rest_s(A) <= 60
        rested(fleet)
        for health, redis in made:
            await health.sync(redis)
            health._held_off.clear()  # the second it waits is over
        assert len(await who_may(made)) == 1

    scene(fleet, 6, play)


def test_a_trial_that_is_given_up_lets_another_try(fleet: Fleet) -> None:
    async def play(made: list[tuple[Circuits, OneServer]]) -> None:
        await open_it(made, fleet)
        [trying] = await who_may(made)
        made[trying][0].dropped(A)
        await made[trying][0].sync(made[trying][1])
        assert not await made[0][1].redis.exists(keys.trial("a"))
        for health, _ in made:
            health._held_off.clear()
        assert len(await who_may(made)) == 1

    scene(fleet, 3, play)


def test_a_worker_that_dies_in_its_trial_holds_it_for_a_while_only(fleet: Fleet) -> None:
    async def play(made: list[tuple[Circuits, OneServer]]) -> None:
        await open_it(made, fleet)
        await who_may(made)
        assert 0 < await made[0][1].redis.pttl(keys.trial("a")) <= 30_001

    scene(fleet, 2, play)


UNWATCHED = [Choice(ROW, "up-a-passed-through"), Choice(Model("s", "P", "scripted", "scripted"), "scripted")]


@pytest.mark.parametrize("choice", UNWATCHED)
def test_what_a_caller_can_make_fail_has_no_circuit(fleet: Fleet, choice: Choice) -> None:
    async def play(made: list[tuple[Circuits, OneServer]]) -> None:
        [(health, redis)] = made
        for _ in range(9):
            health.failed(choice)
        await health.sync(redis)
        assert await health.may_ask(redis, choice)
        assert health.vitals() == {}

    scene(fleet, 1, play)
    assert not fleet.redis().exists(keys.HEALTH)
