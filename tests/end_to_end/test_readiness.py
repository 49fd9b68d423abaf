"""`/readyz` tells the truth within 5 s: Redis stopped, paused, its live feed dead; and again when it is back."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from typing import Any

from tests.fleet import Fleet, one_server
from tests.network import Proxy
from tests.wire import PATIENCE_S, Sse, call, text_of, words

TRUTH_S = 5.0
"""A promise of the product (docs/operations.md), not a speed."""


async def until_status(url: str, status: int) -> tuple[float, dict[str, Any]]:
    """Seconds until it says so, and what it says."""
    began = time.monotonic()
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found, body, _ = await call("GET", f"{url}/readyz")
            if found == status:
                return time.monotonic() - began, dict(body)
            await asyncio.sleep(0.05)


def judge(stop: Callable[[Fleet], None], go_on: Callable[[Fleet], None]) -> None:
    async def scene(fleet: Fleet) -> None:
        for url in fleet.urls:
            assert (await until_status(url, 200))[1]["status"] == "ready"
        stop(fleet)
        for seconds, body in await asyncio.gather(*(until_status(url, 503) for url in fleet.urls)):
            assert body["redis"] == "unreachable"
            assert seconds <= TRUTH_S
        assert [(await call("GET", f"{url}/healthz"))[0] for url in fleet.urls] == [200, 200]
        go_on(fleet)
        for seconds, body in await asyncio.gather(*(until_status(url, 200) for url in fleet.urls)):
            assert (body["redis"], body["live_feed"]) == ("ok", "ok")
            assert seconds <= 2 * TRUTH_S

    with Fleet(edges=2, workers=1) as fleet:
        asyncio.run(scene(fleet))


def test_readyz_says_that_redis_has_stopped_and_that_it_is_back() -> None:
    judge(lambda fleet: fleet.kill_redis(), lambda fleet: fleet.start_redis())


def test_readyz_says_that_redis_is_paused_and_that_it_goes_on() -> None:
    judge(lambda fleet: fleet.signal_redis(signal.SIGSTOP), lambda fleet: fleet.signal_redis(signal.SIGCONT))


@one_server("the clients of one server are killed")
def test_readyz_says_that_the_live_feed_is_dead_although_redis_answers() -> None:
    """Its connections are half open and so is every new one; commands work. Readers lose nothing."""

    async def scene(fleet: Fleet, network: Proxy) -> None:
        url = fleet.urls[0]
        body = {"message": "hello", "model": "scripted?tokens=700&interval_ms=10"}
        async with Sse.post(url, body) as stream:
            head = await stream.take(5)
            network.silence(lambda link: link.is_subscriber)
            seconds, said = await until_status(url, 503)
            assert (said["redis"], said["live_feed"]) == ("ok", "silent")
            assert seconds <= TRUTH_S
            network.flow()
            network.reset(lambda link: link.is_subscriber)
            assert (await until_status(url, 200))[0] <= TRUTH_S
            assert text_of(head + await stream.take()) == words(700)

    with Proxy() as network:
        fleet = Fleet(edges=1, workers=1, env={"TOKENRELAY_REDIS_URL": f"redis://127.0.0.1:{network.port}"})
        network.target = fleet.redis_path
        with fleet:
            asyncio.run(scene(fleet, network))
