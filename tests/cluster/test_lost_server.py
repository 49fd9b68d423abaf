"""A server without a replica is lost for good: streams elsewhere are whole, and new ones begin there, at once."""

from __future__ import annotations

import asyncio
import json
import urllib.request

import aiohttp

from tests.cluster.servers import Server
from tests.cluster.storm import storm
from tests.fleet import Fleet, until
from tokenrelay.protocol.store import partitions, scripts

STREAMS = 18
STARTS = 20


def test_only_its_own_streams_are_touched() -> None:
    with Fleet(edges=1, workers=1, replicas=0) as fleet:
        assert fleet.servers is not None
        owners = {tag: fleet.servers.owner_of(partitions.slot(tag)) for tag in partitions.tags(16)}
        needed = {
            fleet.servers.owner_of(partitions.slot(tag)) for tag in (partitions.GLOBAL, scripts.owner_tag("anonymous"))
        }
        victim = next(server for server in fleet.servers.all if server not in needed)

        def lost(_: object) -> None:
            victim.kill()
            until(lambda: _state(fleet, victim) == "silent", "the edge does not notice")
            ids = asyncio.run(_starts(fleet.urls[0]))
            assert victim not in {owners[partitions.tag_of(stream_id)] for stream_id in ids}

        told, _ = storm(fleet, lost, STREAMS, wait_s=15)
        tracebacks = fleet.tracebacks()
    elsewhere = [each for each in told if owners[partitions.tag_of(each.stream_id)] is not victim]
    assert 0 < len(elsewhere) < STREAMS
    assert [each for each in elsewhere if not each.is_whole] == []
    assert not tracebacks


def _state(fleet: Fleet, server: Server) -> str:
    """What `/readyz`, which says 200 all the while, has of it."""
    with urllib.request.urlopen(f"{fleet.urls[0]}/readyz", timeout=5) as answer:
        return str(json.load(answer)["cluster"]["servers"][server.place])


async def _starts(url: str) -> list[str]:
    # Two seconds each on a busy machine. They took five each where a worker asked all servers before it claimed.
    async with asyncio.timeout(40), aiohttp.ClientSession() as session:

        async def start() -> str:
            body = {"message": "hi", "model": "scripted?tokens=2"}
            async with session.post(f"{url}/api/chat", json=body) as answer:
                assert answer.status == 200, await answer.text()
                return answer.headers["X-Stream-Id"]

        return [await start() for _ in range(STARTS)]
