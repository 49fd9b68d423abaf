"""Leases without Redis: who holds what, and what becomes of a stream that comes back to the process that had it."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog

from tests.workers.generation.play import Player, Stage
from tokenrelay.protocol.store.scripts import AppendReply, Claim
from tokenrelay.protocol.wire import request
from tokenrelay.workers.conversation import Delta, Finish
from tokenrelay.workers.dispatch import leases as module
from tokenrelay.workers.dispatch.leases import Held, Leases

ASKED = request.pack(request.from_object({"message": "x", "model": "claude"}))


def held(epoch: int) -> Held:
    return Held(Claim("stream-1", epoch, 0, 0, "claude", "continue", ASKED), time.monotonic())


def test_a_requeued_stream_that_comes_back_is_held_until_its_own_end() -> None:
    """The first attempt's end takes nothing from the second, which goes on being renewed and heard."""

    async def scene() -> None:
        stage = Stage(anthropic=Player([None], [Delta("a"), Finish("stop", 1, 1, "m")]))
        leases = Leases(stage.resources, "w", {})
        first = asyncio.create_task(leases.run(held(1)))
        await asyncio.sleep(0.05)
        earlier = leases.generations["stream-1"]
        second = asyncio.create_task(leases.run(held(2)))
        await asyncio.sleep(0.05)
        newest = leases.generations["stream-1"]
        assert (earlier.epoch, newest.epoch) == (1, 2)
        earlier.log.lose()  # as Redis says of its next append: it is fenced
        await asyncio.wait_for(first, 5)
        assert leases.generations == {"stream-1": newest}
        assert leases._held() == {"": [("stream-1", 2)]}
        newest.log.take_reply(AppendReply("ok", newest.log.last_id, 1, cancel_wanted=False))
        await asyncio.wait_for(second, 5)
        assert leases.generations == {}

    asyncio.run(scene())


def test_a_claim_is_held_until_it_is_run_or_let_go() -> None:
    stage: Any = Stage()
    leases = Leases(stage.resources, "w", {})
    one, two = held(1), held(2)
    leases.hold(one)
    leases.hold(two)
    leases.let_go(one)
    assert leases._held() == {"": [("stream-1", 2)]}


def test_an_outage_of_redis_does_not_fill_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 0

    async def away(*_: object) -> None:
        nonlocal tries
        tries += 1
        raise ConnectionResetError

    monkeypatch.setattr(module, "TICK_S", 0.0)
    monkeypatch.setattr(module, "SYNC_S", -1.0)
    keeper = Leases.__new__(Leases)
    keeper.generations, keeper._renewed_at, keeper._synced_at = {}, -1e9, -1e9
    store, circuits = SimpleNamespace(place=lambda: "redis"), SimpleNamespace(sync=away)
    keeper.resources = cast(Any, SimpleNamespace(store=store, circuits=circuits))
    monkeypatch.setattr(keeper, "renew", away)

    async def scene() -> None:
        task = asyncio.create_task(keeper.keep())
        while tries < 2 * 100:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    with structlog.testing.capture_logs() as said:
        asyncio.run(scene())
    for event in ("renew_failed", "circuit_sync_failed"):
        assert [line["failures"] for line in said if line["event"] == event] == [1, 2, 4, 8, 16, 32, 64]
