"""What happens to a cluster under streams, and what each stream saw of it: `python -m tests.cluster.storm`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import time
from collections.abc import Callable
from datetime import date

import aiohttp
import msgspec

from tests.cluster.servers import NODE_TIMEOUT_MS, Servers
from tests.fleet import Fleet
from tokenrelay.loadtest.machine import processor
from tokenrelay.protocol.store import partitions

TOKENS = 60
INTERVAL_MS = 100
FAILOVER_S = NODE_TIMEOUT_MS / 1000 + 3
AT_ONCE_S = OTHERS_S = 1.0
"""The longest silence that is promised: there, where a slot moves at once, elsewhere."""

SLOT = partitions.slot(partitions.tags(1)[0])


class Told(msgspec.Struct):
    """One stream as its reader saw it; `silence_s` is its longest, from the event on."""

    stream_id: str = ""
    ids: list[int] = []
    text: str = ""
    is_complete: bool = False
    silence_s: float = 0.0

    @property
    def is_whole(self) -> bool:
        """Every token once, and a good end."""
        text = " ".join(f"w{number}" for number in range(TOKENS)) + " "
        return self.ids == [*range(1, TOKENS + 3)] and self.text == text and self.is_complete


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


EVENTS = (killed, killed_with_its_tail, failed_over, paused, moved_at_once, moved_key_by_key, scripts_forgotten)


def storm(
    fleet: Fleet, event: Callable[[Servers], None], streams: int, *, wait_s: float = 100
) -> tuple[list[Told], str]:
    """What all streams saw, and the server on which it happened. One that has not ended `wait_s` after the event is
    left."""
    servers = fleet.servers
    assert servers is not None
    place = servers.owner_of(SLOT).place
    return asyncio.run(_play(fleet.urls, lambda: event(servers), streams, wait_s)), place


async def _play(urls: list[str], happens: Callable[[], None], streams: int, wait_s: float) -> list[Told]:
    model = f"scripted?tokens={TOKENS}&interval_ms={INTERVAL_MS}"
    began_at = float("inf")
    under_way = asyncio.Semaphore(0)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:

        async def read(told: Told, at: int) -> None:
            heard_at = 0.0
            body = {"message": "hi", "model": model, "stream": True}
            async with session.post(f"{urls[at % len(urls)]}/api/chat", json=body) as answer:
                told.stream_id = answer.headers["X-Stream-Id"]
                under_way.release()
                async for raw in answer.content:
                    line = raw.decode()
                    if found := re.match(r"id: (\d+)", line):
                        told.ids.append(int(found[1]))
                    elif line.startswith("data: "):
                        data, now = json.loads(line[6:]), time.monotonic()
                        told.text += data["token"]
                        told.is_complete = data["done"] and data.get("finish_reason") == "stop"
                        if now > began_at:
                            told.silence_s = max(told.silence_s, now - max(heard_at, began_at))
                        heard_at = now

        all_told = [Told() for _ in range(streams)]
        reading = [asyncio.create_task(read(told, at)) for at, told in enumerate(all_told)]
        for _ in range(streams):
            await under_way.acquire()
        await asyncio.sleep(0.5)
        began_at = time.monotonic()
        await asyncio.to_thread(happens)
        _, left = await asyncio.wait(reading, timeout=wait_s)
        for task in left:
            task.cancel()
        for outcome in await asyncio.gather(*reading, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome
        return all_told


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.storm", description=__doc__)
    parser.add_argument("--streams", type=int, default=100)
    given = parser.parse_args()
    print("| event | streams that are whole | silence there, longest | of others |\n|---|---|---|---|")
    faults = 0
    for event in EVENTS:
        with Fleet(edges=2, workers=2, replicas=1, env={"TOKENRELAY_REDIS_PARTITIONS": "16"}) as fleet:
            assert fleet.servers is not None
            owners = {tag: fleet.servers.owner_of(partitions.slot(tag)).place for tag in partitions.tags(16)}
            told, place = storm(fleet, event, given.streams)
        there = [each.silence_s for each in told if owners[partitions.tag_of(each.stream_id)] == place]
        others = [each.silence_s for each in told if owners[partitions.tag_of(each.stream_id)] != place]
        whole = sum(each.is_whole for each in told)
        bar_s = AT_ONCE_S if event in (failed_over, moved_at_once, scripts_forgotten) else FAILOVER_S
        faults += len(told) - whole + (max(there) > bar_s) + (max(others) > OTHERS_S)
        name = event.__name__.replace("_", " ")
        print(f"| {name} | {whole} of {len(told)} | {max(there):.1f} s | {max(others):.1f} s |", flush=True)
    pace = f"{given.streams} streams x {1000 // INTERVAL_MS} tokens/s"
    shape = f"3 primaries with a replica each, 16 partitions, node timeout {NODE_TIMEOUT_MS} ms"
    print(f"\n{pace}; {shape}; {processor()}, {os.cpu_count()} cores; {date.today()}.")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
