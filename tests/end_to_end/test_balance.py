"""Workers share what comes: in a burst, and in a trickle of answers that are over before the next one comes."""

from __future__ import annotations

import asyncio
from collections import Counter

import aiohttp
import pytest

from tests.fleet import Fleet, until
from tokenrelay.protocol.store import keys

WORKERS = 4
STARTS = 120


@pytest.mark.parametrize(("pause_s", "tokens"), [(0.0, 200), (0.02, 1)], ids=["burst", "trickle"])
def test_no_worker_gets_more_than_twice_the_mean(pause_s: float, tokens: int) -> None:
    async def play(urls: list[str]) -> list[str]:
        async with aiohttp.ClientSession() as session:

            async def start(at: int) -> str:
                await asyncio.sleep(at * pause_s)
                body = {"message": "hi", "model": f"scripted?tokens={tokens}&interval_ms=10"}
                async with session.post(f"{urls[at % len(urls)]}/api/chat", json=body) as answer:
                    said = await answer.json()
                    return str(said["stream_id"])

            return await asyncio.gather(*(start(at) for at in range(STARTS)))

    with Fleet(edges=2, workers=WORKERS) as fleet:
        until(lambda: len(_known(fleet)) == WORKERS, "not all workers have said that they are there")
        ids = asyncio.run(play(fleet.urls))
        redis = fleet.redis()
        shares = Counter(redis.hget(keys.meta(stream_id), "worker") for stream_id in ids)
    assert sum(shares.values()) == STARTS
    assert len(shares) == WORKERS, shares
    assert max(shares.values()) <= 2 * STARTS / WORKERS, shares


def _known(fleet: Fleet) -> list[bytes]:
    found: list[bytes] = fleet.redis().hkeys(fleet.names.for_all(keys.WORKERS))
    return found
