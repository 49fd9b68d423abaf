"""`python -m tests.chaos --seed 7 --minutes 5`: three edges, three workers, Redis, 200 clients, and a storm.

    clients ──proxies──▶ edges ──┐
                       workers ──┴──proxy──▶ Redis        the storm is in the processes and in the proxies

Prints what was done and what it came to; exit 0 when every client holds exactly what was written or the same clear end,
nothing is left running, no key is without a time to live and no process holds more than it did.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path

from tests.chaos.client import Broken, Wanderer
from tests.chaos.storm import Storm
from tests.fleet import Fleet, until
from tests.network import Proxy
from tests.wire import call, whole
from tokenrelay.protocol.store import keys

EDGES = WORKERS = 3
SETTLE_S = 30.0
SPARE_DESCRIPTORS = 48
"""A pool keeps the connections that its worst moment took, at most 32; a leak is one for every stream, hundreds."""

SPARE_MIB = 48
"""What an allocator keeps of the worst moment. A leak of every stream's window would be hundreds in five minutes."""

ENV = {"TOKENRELAY_HEARTBEAT_S": "2", "TOKENRELAY_SEND_TIMEOUT_S": "8"}


class Tally:
    """What it came to."""

    def __init__(self) -> None:
        self.ends: Counter[str] = Counter()
        self.reconnects = 0
        self.faults: list[str] = []
        self.fds = self.mib = 0  # more than at the beginning, in the worst process

    def count(self, wanderer: Wanderer) -> None:
        assert wanderer.end is not None
        self.ends[wanderer.end.get("finish_reason") or wanderer.end["error_code"]] += 1
        self.reconnects += wanderer.reconnects


async def crowd(urls: list[str], dice: random.Random, clients: int, seconds: float, tally: Tally) -> list[Wanderer]:
    """So many at once, one stream after the other each, until the time is over."""
    until_s = time.monotonic() + seconds
    finished: list[Wanderer] = []

    async def one(number: int, own: random.Random) -> None:
        turn = 0
        while time.monotonic() < until_s:
            wanderer = Wanderer(urls, own, f"c{number}-{turn}")
            try:
                finished.append(await wanderer.run())
                tally.count(wanderer)
            except Broken as fault:
                tally.faults.append(str(fault))
            turn += 1
            await asyncio.sleep(own.uniform(0, 0.3))

    await asyncio.gather(*(one(number, random.Random(dice.random())) for number in range(clients)))
    return finished


async def compare(fleet: Fleet, finished: list[Wanderer], dice: random.Random, tally: Tally) -> None:
    """A fresh reader of some of them finds what the wanderer found, byte for byte, and the same end."""
    for wanderer in dice.sample(finished, min(200, len(finished))):
        events = await whole(dice.choice(fleet.urls), wanderer.stream_id)
        ids = [entry_id for entry_id, _ in events]
        text = "".join(data["token"] for _, data in events)
        if ids != list(range(1, len(ids) + 1)) or text != wanderer.text or events[-1][1] != wanderer.end:
            tally.faults.append(f"{wanderer!r}: another reader found something else")


def check_redis(fleet: Fleet, tally: Tally) -> None:
    """Nothing left running, nothing without a time to live."""
    client = fleet.redis()

    def is_quiet() -> bool:
        return not client.zcard(keys.LEASES) and not client.zcard(keys.WAITING)

    try:
        until(is_quiet, "something is still running")
    except TimeoutError as error:
        tally.faults.append(f"{error}: {client.zrange(keys.LEASES, 0, 5)} {client.zrange(keys.WAITING, 0, 5)}")
    for name in client.scan_iter(count=1000):
        if client.ttl(name) == -1:
            tally.faults.append(f"{name.decode()} has no time to live")
    if client.zcard(keys.active("anonymous")):
        tally.faults.append("streams that ended still count as under way")
    client.close()


def living(fleet: Fleet) -> list[int]:
    return [process.pid for process in [*fleet.edges, *fleet.workers] if process.poll() is None]


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def resident_mib(pid: int) -> int:
    match = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(match[1]) // 1024 if match else 0


async def check_edges(fleet: Fleet, tally: Tally) -> None:
    """No reader is left on any edge, nor any feed that nobody reads."""
    for url in fleet.urls:
        said = ""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                while "| 0 connections | <Hub 0 streams |" not in said:
                    await asyncio.sleep(0.2)
                    said = (await call("GET", f"{url}/readyz"))[1]["edge"]
                continue
        tally.faults.append(f"readers are left: {said}")


def check_processes(fleet: Fleet, tally: Tally, fds: int, mib: int) -> None:
    """Descriptors and memory are where they began."""
    for pid in living(fleet):
        tally.fds = max(tally.fds, descriptors(pid) - fds)
        tally.mib = max(tally.mib, resident_mib(pid) - mib)
        if descriptors(pid) > fds + SPARE_DESCRIPTORS:
            tally.faults.append(f"process {pid} has {descriptors(pid)} descriptors open, it began with {fds}")
        if resident_mib(pid) > mib + SPARE_MIB:
            tally.faults.append(f"process {pid} holds {resident_mib(pid)} MiB, it began with {mib}")


async def scene(fleet: Fleet, proxies: list[Proxy], store: Proxy, seed: int, seconds: float, clients: int) -> Tally:
    dice, tally = random.Random(seed), Tally()
    fds = max(map(descriptors, living(fleet)))
    mib = max(map(resident_mib, living(fleet)))
    storm = Storm(fleet, proxies, store, random.Random(dice.random()))
    raging = asyncio.create_task(storm.rage(seconds))
    finished = await crowd([proxy.url for proxy in proxies], dice, clients, seconds, tally)
    await raging
    await asyncio.to_thread(fleet.wait_until_ready)
    await compare(fleet, finished, dice, tally)
    await asyncio.to_thread(check_redis, fleet, tally)
    await check_edges(fleet, tally)
    check_processes(fleet, tally, fds, mib)
    print(f"seed {seed}: {sum(tally.ends.values())} streams {dict(tally.ends)}, {tally.reconnects} reconnects")
    print(f"  troubles: {dict(storm.done)}")
    print(f"  at the end beyond the beginning: {tally.fds} descriptors, {tally.mib} MiB in the worst process")
    for fault in tally.faults[:20]:
        print(f"  FAULT {fault}")
    return tally


def run(seed: int, seconds: float, clients: int, workers: int = WORKERS) -> Tally:
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(Proxy())
        env = {**ENV, "TOKENRELAY_REDIS_URL": f"redis://127.0.0.1:{store.port}/0"}
        fleet = Fleet(edges=EDGES, workers=workers, env=env)
        store.target = fleet.redis_path
        stack.enter_context(fleet)
        proxies = [stack.enter_context(Proxy(port)) for port in fleet.ports]
        tally = asyncio.run(scene(fleet, proxies, store, seed, seconds, clients))
        if tally.faults:
            print(fleet.tracebacks() or fleet.logs())
        return tally


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--workers", type=int, default=WORKERS)
    arguments = parser.parse_args()
    return 1 if run(arguments.seed, arguments.minutes * 60, arguments.clients, arguments.workers).faults else 0


if __name__ == "__main__":
    sys.exit(main())
