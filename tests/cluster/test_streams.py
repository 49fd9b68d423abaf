"""Streams that run while their cluster changes under them: each is whole, nothing is lost and nothing comes twice."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable

import aiohttp
import pytest

from tests.cluster.servers import Servers
from tests.fleet import ON_CLUSTER, Fleet
from tokenrelay.protocol.store import partitions

STREAMS = 24
TOKENS = 60
MODEL = f"scripted?tokens={TOKENS}&interval_ms=100"
SLOT = partitions.slot(partitions.tags(1)[0])


def killed(servers: Servers) -> None:
    primary = servers.owner_of(SLOT)
    primary.kill()
    servers.wait_until_replaced(primary)
    primary.start()


def killed_with_its_tail(servers: Servers) -> None:
    primary = servers.owner_of(SLOT)
    servers.kill_with_tail(primary)
    servers.wait_until_replaced(primary)
    primary.start()


def failed_over(servers: Servers) -> None:
    servers.fail_over(servers.owner_of(SLOT))


def paused(servers: Servers) -> None:
    primary = servers.owner_of(SLOT)
    primary.pause()
    servers.wait_until_replaced(primary)
    primary.go_on()


def moved_at_once(servers: Servers) -> None:
    home = servers.owner_of(SLOT)
    servers.move_at_once(SLOT, servers.other_primary(home))
    servers.move_at_once(SLOT, home)


def moved_key_by_key(servers: Servers) -> None:
    home = servers.owner_of(SLOT)
    servers.move_key_by_key(SLOT, servers.other_primary(home))
    servers.move_key_by_key(SLOT, home)


def scripts_forgotten(servers: Servers) -> None:
    servers.forget_scripts()


ALWAYS = (killed_with_its_tail, moved_key_by_key)
WITH_THE_REST = (killed, failed_over, paused, moved_at_once, scripts_forgotten) if ON_CLUSTER else ()
"""`make test-cluster`."""


@pytest.mark.parametrize("event", [*ALWAYS, *WITH_THE_REST], ids=lambda event: event.__name__)
def test_all_streams_are_whole(event: Callable[[Servers], None]) -> None:
    # Two partitions: half the streams are where it happens.
    with Fleet(edges=2, workers=2, replicas=1, env={"TOKENRELAY_REDIS_PARTITIONS": "4"}) as fleet:
        assert fleet.servers is not None
        told = asyncio.run(_play(fleet, lambda: event(fleet.servers)))  # type: ignore[arg-type]
        tracebacks = fleet.tracebacks()
    whole = [[*range(1, TOKENS + 3)], " ".join(f"w{number}" for number in range(TOKENS)) + " ", True]
    assert [told[at] for at in range(STREAMS) if told[at] != whole] == []
    assert not tracebacks


async def _play(fleet: Fleet, happens: Callable[[], None]) -> list[list[object]]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=100)) as session:
        under_way = asyncio.Semaphore(0)

        async def read(at: int) -> list[object]:
            """Ids, text, and whether it ended well."""
            ids, text, ended = list[int](), "", False
            body = {"message": "hi", "model": MODEL, "stream": True}
            async with session.post(f"{fleet.urls[at % 2]}/api/chat", json=body) as answer:
                under_way.release()
                async for raw in answer.content:
                    line = raw.decode()
                    if found := re.match(r"id: (\d+)", line):
                        ids.append(int(found[1]))
                    elif line.startswith("data: "):
                        data = json.loads(line[6:])
                        text += data["token"]
                        ended = data["done"] and data.get("finish_reason") == "stop"
            return [ids, text, ended]

        reading = [asyncio.create_task(read(at)) for at in range(STREAMS)]
        for _ in range(STREAMS):
            await under_way.acquire()
        await asyncio.sleep(0.5)
        await asyncio.to_thread(happens)
        return await asyncio.gather(*reading)
