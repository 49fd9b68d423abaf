"""Leases without Redis: who holds what, and what becomes of a stream that comes back to the process that had it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tests.workers.generation.play import Player, Stage
from tokenrelay.protocol.store.scripts import AppendReply, Claim
from tokenrelay.protocol.wire import request
from tokenrelay.workers.conversation import Delta, Finish
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
