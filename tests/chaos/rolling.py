"""`python -m tests.chaos.rolling --clients 1000`: two edges are replaced one after the other while so many read.

Each client reads a stream of its own, half over SSE and half over WebSocket, and does what it is told: it comes back
after the time that `retry:` or `reconnect` names, to the other edge when one refuses. Exit 0 when every one of them has
every token exactly once. Prints when they came back, as a histogram.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import signal
import sys
import time
from collections import Counter
from typing import Any

from tests.chaos.client import AWAY
from tests.fleet import Fleet
from tests.wire import EventPair, Sse, Ws, call, words

BUCKET_S = 0.5
COMING_S = 10.0
"""Over which the crowd comes at first, so that it does not measure its own stampede."""

WIDTH = 50
ENDLESS = 1_000_000
"""Streams outlast both drains, however slow the machine; then they are stopped."""


class Viewer:
    """A client that does as it is told."""

    def __init__(self, urls: list[str], number: int, interval_ms: int, dice: random.Random) -> None:
        self._urls = urls
        self._at = number % len(urls)
        self._is_sse = number // len(urls) % 2 == 0
        self._dice = dice
        self._body = {"message": "hello", "model": f"scripted?tokens={ENDLESS}&interval_ms={interval_ms}"}
        self._key = f"viewer-{number}"
        self._cursor = 0
        self._advice_s = 0.5
        self.stream_id = ""
        self.text = ""
        self.repeated = 0
        self.end: dict[str, Any] | None = None  # None until it has ended
        self.came: list[float] = []  # when it was answered, first and again, by the monotonic clock
        self.tries = 0

    def __repr__(self) -> str:
        return f"<Viewer {self._key} {self.stream_id} at {self._cursor}>"

    async def run(self) -> None:
        while not self.end:
            self.tries += 1
            try:
                await (self._over_sse() if self._is_sse else self._over_socket())
            except AWAY:
                self._at += 1
                self._advice_s = 0.2
            if not self.end:
                await asyncio.sleep(self._advice_s)

    async def _over_sse(self) -> None:
        url = self._urls[self._at % len(self._urls)]
        if self.stream_id:
            stream = Sse.get(url, self.stream_id, self._cursor)
        else:
            stream = Sse.post(url, self._body, {"Idempotency-Key": self._key})
        async with stream:
            if stream.status != 200:
                self._refused(float(stream.response.headers.get("Retry-After", "1")))
                return
            self.came.append(time.monotonic())
            self.stream_id = stream.stream_id
            async for event in stream:
                self._take(event)
            self._advice_s = (stream.decoder.retry_ms or 1_000) / 1000

    async def _over_socket(self) -> None:
        async with Ws(self._urls[self._at % len(self._urls)], binary=True) as socket:
            if self.stream_id:
                answer = await socket.resume(self.stream_id, self._cursor)
            else:
                await socket.say({"type": "start", "idempotency_key": self._key, **self._body})
                answer = await socket.hear()
            if answer["type"] != "started":
                self._refused(float(answer.get("retry_after") or answer.get("after_ms", 1_000) / 1000))
                return
            self.came.append(time.monotonic())
            self.stream_id = answer["stream_id"]
            while not self.end:
                message = await socket.hear()
                if message["type"] == "reconnect":
                    self._advice_s = message["after_ms"] / 1000
                    return
                self._take((message["id"], message["data"]))

    def _refused(self, advice_s: float) -> None:
        self._at += 1
        self._advice_s = advice_s * self._dice.uniform(0.2, 1.0)

    def _take(self, event: EventPair) -> None:
        entry_id, data = event
        if entry_id is not None and entry_id <= self._cursor:
            self.repeated += 1
        self._cursor = entry_id or self._cursor
        self.text += data["token"]
        if data["done"]:
            self.end = data

    @property
    def is_whole(self) -> bool:
        """It was stopped in the end, and has every token that was written until then, exactly once."""
        count = self.text.count(" ")
        if self.end is None or self.end.get("finish_reason") != "cancelled" or self.repeated:
            return False
        return bool(self.end["output_tokens"] == count and self.text == words(count))


class Outcome:
    """What it came to."""

    def __init__(self, viewers: list[Viewer], drains: list[float]) -> None:
        self.faults = [repr(one) for one in viewers if not one.is_whole]
        self.clients = len(viewers)
        self.drains = drains
        self.reconnects = sorted(at for one in viewers for at in one.came[1:])
        self.refused = sum(one.tries - len(one.came) for one in viewers)

    def after(self, index: int) -> list[float]:
        """Seconds from a drain's beginning to each coming back, up to the next drain."""
        begin = self.drains[index]
        end = self.drains[index + 1] if index + 1 < len(self.drains) else float("inf")
        return [at - begin for at in self.reconnects if begin <= at < end]

    def histogram(self) -> str:
        lines = [f"{self.clients} clients, {len(self.faults)} not whole, {self.refused} tries refused or failed"]
        for index in range(len(self.drains)):
            times = self.after(index)
            buckets = Counter(int(seconds / BUCKET_S) for seconds in times)
            lines += [
                "",
                f"edge {index + 1} of {len(self.drains)} drains: {len(times)} come back, seconds after SIGTERM",
            ]
            top = max(buckets.values(), default=1)
            for bucket in range(max(buckets, default=0) + 1):
                number = buckets[bucket]
                lines.append(f"{bucket * BUCKET_S:5.1f}  {number:4d}  {'#' * round(WIDTH * number / top)}".rstrip())
        return "\n".join(lines)


async def scene(fleet: Fleet, clients: int, interval_ms: int, coming_s: float) -> Outcome:
    dice = random.Random(1)
    viewers = [Viewer(fleet.urls, number, interval_ms, random.Random(number)) for number in range(clients)]

    async def come(viewer: Viewer) -> None:
        await asyncio.sleep(dice.uniform(0, coming_s))
        await viewer.run()

    crowd = asyncio.gather(*(come(viewer) for viewer in viewers))
    await asyncio.sleep(coming_s)
    while not all(viewer.came for viewer in viewers):
        await asyncio.sleep(0.05)
    drains = []
    for index in range(len(fleet.edges)):
        drains.append(time.monotonic())
        await asyncio.to_thread(fleet.kill_edge, index, signal.SIGTERM)
        assert fleet.edges[index].returncode == 0, fleet.logs()
        fleet.start_edge(index)
        await asyncio.to_thread(fleet.wait_until_ready)
    while any(len(viewer.came) < 2 for viewer in viewers):
        await asyncio.sleep(0.05)
    for viewer in viewers:
        await call("DELETE", f"{fleet.urls[0]}/api/streams/{viewer.stream_id}")
    await crowd
    return Outcome(viewers, drains)


def run(clients: int, drain_s: float, interval_ms: int, coming_s: float) -> Outcome:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = clients * 2 + 500  # all of them on one edge; the processes inherit it
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    env = {"TOKENRELAY_DRAIN_S": f"{drain_s:g}", "TOKENRELAY_MAX_JOBS": str(clients + 10)}
    with Fleet(edges=2, workers=1, env=env) as fleet:
        return asyncio.run(scene(fleet, clients, interval_ms, coming_s))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.rolling", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--clients", type=int, default=1_000)
    parser.add_argument("--drain", type=float, default=10.0, metavar="S", help="TOKENRELAY_DRAIN_S (default 10)")
    parser.add_argument("--interval", type=int, default=250, metavar="MS", help="between two tokens of a stream")
    arguments = parser.parse_args()
    print(f"{arguments.clients} clients, two edges replaced one after the other: about a minute", flush=True)
    outcome = run(arguments.clients, arguments.drain, arguments.interval, COMING_S)
    print(outcome.histogram())
    for fault in outcome.faults[:20]:
        print(f"  FAULT {fault}")
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main())
