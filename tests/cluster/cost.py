"""What a token costs on one server and on clusters of one, two and three primaries: `python -m tests.cluster.cost`.

CPU of each process and commands of Redis, by token, under the same load in one run. On two cores more servers cannot
carry more; this shows what they cost.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
from datetime import date
from typing import Any, NamedTuple

import aiohttp
import psutil
import redis

from tests.fleet import Fleet
from tokenrelay.loadtest.machine import processor, versions

INTERVAL_MS = 50
WARM_S = 2.0


class Cost(NamedTuple):
    """Of one token: CPU in us, and commands."""

    edge: float
    worker: float
    redis: float
    commands: float

    @property
    def total(self) -> float:
        return self.edge + self.worker + self.redis


async def load(url: str, streams: int, seconds: float, between: Any) -> int:
    """Tokens that came between the two looks of `between`."""
    count, counting = 0, False
    model = f"scripted?tokens={int((seconds + 2 * WARM_S) * 1000 / INTERVAL_MS)}&interval_ms={INTERVAL_MS}"
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:

        async def read() -> None:
            nonlocal count
            body = {"message": "hi", "model": model, "stream": True}
            async with session.post(f"{url}/api/chat", json=body) as answer:
                async for data in answer.content.iter_any():
                    if counting:
                        count += data.count(b'"token":"w')

        reading = [asyncio.create_task(read()) for _ in range(streams)]
        await asyncio.sleep(WARM_S)
        between()
        counting = True
        await asyncio.sleep(seconds)
        between()
        counting = False
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
    return count


def measure(primaries: int, streams: int, seconds: float) -> Cost:
    """`primaries` 0: one server, no cluster."""
    with Fleet(
        edges=1, workers=1, replicas=0 if primaries else None, primaries=primaries or 3,
        env={"TOKENRELAY_REDIS_PARTITIONS": "256"},
    ) as fleet:  # fmt: skip
        servers = [server.process for server in fleet.servers.all] if fleet.servers else [fleet.redis_process]
        clients = [server.client for server in fleet.servers.all] if fleet.servers else [fleet.redis()]
        groups = {"edge": fleet.edges, "worker": fleet.workers, "redis": servers}
        looks: list[tuple[dict[str, float], int]] = []

        def look() -> None:
            cpu = {name: sum(_cpu(process.pid) for process in each) for name, each in groups.items()}
            looks.append((cpu, sum(map(_commands, clients))))

        tokens = asyncio.run(load(fleet.urls[0], streams, seconds, look))
        (cpu, commands), (cpu_after, commands_after) = looks
    spent = {name: 1e6 * (cpu_after[name] - cpu[name]) / tokens for name in groups}
    return Cost(**spent, commands=(commands_after - commands) / tokens)


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _commands(client: redis.Redis) -> int:
    return int(client.info("stats")["total_commands_processed"])  # type: ignore[index]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.cost", description=__doc__)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    runs: dict[int, list[Cost]] = {0: [], 1: [], 2: [], 3: []}
    for _ in range(given.runs):  # in turn, so that all see the same machine
        for primaries, costs in runs.items():
            costs.append(measure(primaries, given.streams, given.seconds))
    print("| store | edge | worker | Redis | all | commands a token |\n|---|---|---|---|---|---|")
    for primaries, costs in runs.items():
        cost = Cost(*(statistics.median(each) for each in zip(*costs, strict=True)))
        name = f"cluster of {primaries}" if primaries else "one server"
        figures = " | ".join(f"{each:.0f}" for each in (cost.edge, cost.worker, cost.redis, cost.total))
        print(f"| {name} | {figures} | {cost.commands:.2f} |")
    where = ", ".join([processor(), f"{os.cpu_count()} cores", *versions(), f"{date.today()}"])
    load = f"{given.streams} streams x {1000 // INTERVAL_MS} tokens/s, {given.seconds:g} s, median of {given.runs} runs"
    print(f"\nCPU in us a token; {load}; {where}.")


if __name__ == "__main__":
    main()
