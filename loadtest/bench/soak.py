"""`python -m loadtest.bench soak`: streams begin, end, drop and resume for a given time, and nothing may grow.

Exit 0 when nothing grew, was lost or stayed in Redis for ever, 1 when something did, 2 when it could not run.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import psutil
import redis

from tokenrelay.loadtest import client, machine
from tokenrelay.loadtest.arguments import positive
from tokenrelay.loadtest.bench import output, soak_verdict
from tokenrelay.loadtest.client import Client, Run
from tokenrelay.loadtest.figures import Record
from tokenrelay.loadtest.fleet import CannotStart, Fleet
from tokenrelay.loadtest.wire import Connection, Target, WireError
from tokenrelay.protocol.lifecycle import ENDED
from tokenrelay.protocol.store import keys
from tokenrelay.protocol.store.scripts import TOMBSTONE_MS

MODEL: Final = "scripted?tokens=60&interval_ms=25"
MAX_OPEN: Final = 256
SAMPLES: Final = 180
"""Of one run, however long it is."""

LEAST_PAUSE_S: Final = 0.5
LEAST_RETENTION_S: Final = 5.0
"""Visitors come back up to two seconds later, on a busy machine later still; and leases are renewed every two."""

CALM_S: Final = 30.0
PASSING: Final = frozenset({keys.WAITING, keys.NEEDS, keys.LEASES})
"""Keys without a TTL of their own: gone as soon as nothing waits and nothing runs, and looked for then."""

DICE: Final = random.SystemRandom()


def quitter(visitor: Client) -> None:
    """Reads some and goes for good; the answer is written without a reader."""
    visitor.start(DICE.choice(client.TRANSPORTS))
    visitor.read(lambda: visitor.verifier.last_id > 10)
    visitor.drop()


def canceller(visitor: Client) -> None:
    """Reads some and stops the answer, over a connection of its own."""
    visitor.start(DICE.choice(client.TRANSPORTS))
    visitor.read(lambda: visitor.verifier.last_id > 10)
    target = visitor.run.target
    with Connection(target, visitor.run.patience_s) as connection:
        path = f"/api/streams/{visitor.stream_id}"
        connection.write(f"DELETE {path} HTTP/1.1\r\nHost: {target.netloc}\r\nConnection: close\r\n\r\n".encode())
        status, _, _ = connection.head()
    visitor.drop()
    if status >= 500:
        raise WireError(f"DELETE was answered with {status}")


VISITORS: Final[tuple[tuple[str, client.Behaviour], ...]] = (
    ("SseChat", client.sse_chat), ("WebSocketChat", client.websocket_chat), ("Resumer", client.resumer),
    ("LateJoiner", client.late_joiner), ("Quitter", quitter), ("Canceller", canceller),
)  # fmt: skip


class Visitors:
    """An open arrival rate in threads; each thread keeps a record of its own, merged at the end."""

    def __init__(self, url: str, rate: float) -> None:
        self._target = Target(url)
        self._rate = rate
        self._pool = ThreadPoolExecutor(MAX_OPEN, "visitor")
        self._own = threading.local()
        self._runs: list[Run] = []
        self._lock = threading.Lock()
        self._open: set[Future[None]] = set()
        self.began = 0  # visitors so far
        self.turned_away = 0  # arrivals for which there was no thread

    def come(self, until: float, look: Callable[[], None]) -> None:
        """Arrivals until then, by the monotonic clock; `look` is called in between, often."""
        next_at = time.monotonic()
        while (now := time.monotonic()) < until:
            if now >= next_at:
                next_at += 1 / self._rate
                self._begin()
            look()
            time.sleep(max(0.0, min(next_at - time.monotonic(), 0.05)))

    def _begin(self) -> None:
        self._open = {future for future in self._open if not future.done()}
        if len(self._open) >= MAX_OPEN:
            self.turned_away += 1
            return
        name, behaviour = VISITORS[self.began % len(VISITORS)]
        self.began += 1
        self._open.add(self._pool.submit(self._serve, name, behaviour))

    def _serve(self, name: str, behaviour: client.Behaviour) -> None:
        if not hasattr(self._own, "run"):
            self._own.run = Run(self._target, MODEL)
            with self._lock:
                self._runs.append(self._own.run)
        self._own.run.serve(name, behaviour)

    def finish(self) -> Record:
        """Waits for the last ones; everything that was measured."""
        self._pool.shutdown(wait=True)
        whole = Record()
        for run in self._runs:
            whole.merge(run.record)
        return whole


class Sampler:
    """Memory, descriptors and keys of a fleet, at times evenly spread over the run.

    What is left of a stream whose log has gone, its metadata, stays for a day, so that a late reader hears "expired"
    and not "unknown". No soak lasts that long: here that day is taken off as soon as a stream has ended.
    """

    def __init__(self, fleet: Fleet, pause_s: float) -> None:
        self._fleet = fleet
        self._redis: Any = redis.Redis.from_url(fleet.redis_url)
        self._pause_s = pause_s
        self._began = self._next_at = time.monotonic()
        self.samples: list[dict[str, float]] = []
        self.lasting: set[str] = set()
        self.missed: list[str] = []
        self.remains_bytes = 0  # of the largest metadata of an ended stream

    def look(self, streams: int) -> None:
        now = time.monotonic()
        if now < self._next_at:
            return
        self._next_at = now + self._pause_s
        try:
            self.samples.append({"at_s": round(now - self._began, 3), "streams": streams, **self._now()})
        except (psutil.Error, redis.RedisError) as error:
            self.missed.append(type(error).__name__)

    def at_rest(self) -> dict[str, float]:
        """When all streams have ended: what is left. Waits for the last of them."""
        deadline = time.monotonic() + CALM_S
        while self._redis.exists(*PASSING) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.lasting |= self._without_ttl(frozenset())
        return self._now()

    def _now(self) -> dict[str, float]:
        self.lasting |= self._without_ttl(PASSING)
        values: dict[str, float] = {
            "redis_used_mib": int(self._redis.info("memory")["used_memory"]) / 2**20,
            "redis_keys": int(self._redis.dbsize()),
        }
        for part in soak_verdict.PARTS:
            values[f"{part}_mib"] = self._fleet.resident_bytes(part) / 2**20
            values[f"{part}_fds"] = self._fleet.descriptors(part)
        return {name: round(value, 3) for name, value in values.items()}

    def _without_ttl(self, besides: frozenset[str]) -> set[str]:
        names: list[bytes] = list(self._redis.scan_iter(count=1000))
        left_ms: dict[bytes, int] = dict(zip(names, self._each("PTTL", names), strict=True))
        long = [name for name in names if name.endswith(b":meta") and left_ms[name] > TOMBSTONE_MS]
        ended = {state.encode() for state in ENDED}
        states = zip(long, self._each("HGET", long, "state"), strict=True)
        self._bury([name for name, state in states if state in ended], left_ms)
        return {name.decode() for name in names if left_ms[name] == -1} - besides  # -2: gone in between

    def _bury(self, names: list[bytes], left_ms: dict[bytes, int]) -> None:
        pipe = self._redis.pipeline(transaction=False)
        for name in names:
            pipe.pexpire(name, left_ms[name] - TOMBSTONE_MS)
        pipe.execute()
        sizes = self._each("MEMORY USAGE", names[:10])
        self.remains_bytes = max([self.remains_bytes, *(size or 0 for size in sizes)])

    def _each(self, command: str, names: list[bytes], *rest: str) -> list[Any]:
        pipe = self._redis.pipeline(transaction=False)
        for name in names:
            pipe.execute_command(command, name, *rest)
        answers: list[Any] = pipe.execute()
        return answers


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m loadtest.bench soak", description="A fleet under streams of all kinds; nothing may grow."
    )
    made.add_argument("--minutes", type=positive, default=30.0, help="how long (30)")
    made.add_argument("--rate", type=positive, default=20.0, metavar="STREAMS", help="begun a second (20)")
    made.add_argument(
        "--retention", type=positive, metavar="S", help="how long logs stay (60 s, in a short run a tenth of it)"
    )
    output.arguments(made, "soak")
    return made


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    seconds = options.minutes * 60
    # Within the warm-up everything has to have come to stay and to go.
    retention_s = round(max(LEAST_RETENTION_S, options.retention or min(60, seconds / 10)))
    command = output.command("soak", argv)
    try:
        whole = soak(seconds, options.rate, retention_s)
    except CannotStart as error:
        print(f"soak: {error}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 2
    whole = {"command": command, "date": output.today(), "machine": machine.describe(), **whole}
    output.deliver(options, whole, as_markdown(whole))
    return 0 if whole["holds"] else 1


def soak(seconds: float, rate: float, retention_s: int) -> dict[str, Any]:
    """The shape that `--json` writes. Raises CannotStart, ValueError when it was too short."""
    with Fleet(env={"TOKENRELAY_RETENTION_S": str(retention_s)}) as fleet:
        visitors = Visitors(fleet.url, rate)
        sampler = Sampler(fleet, max(LEAST_PAUSE_S, seconds / SAMPLES))
        said_at = began = time.monotonic()

        def look() -> None:
            nonlocal said_at
            sampler.look(visitors.began)
            if time.monotonic() - said_at >= 10 and sampler.samples:
                said_at = time.monotonic()
                last = sampler.samples[-1]
                parts = ", ".join(f"{part} {last[f'{part}_mib']:.1f} MiB" for part in soak_verdict.PARTS)
                print(f"{said_at - began:5.0f} s  {visitors.began} streams  {parts}", file=sys.stderr, flush=True)

        visitors.come(began + seconds, look)
        record = visitors.finish()
        rest = sampler.at_rest()
    counts = {name: record.counts[name] for name in ("streams", "tokens", "lost", "repeated", "failed")}
    counts["failed"] += visitors.turned_away
    grown = soak_verdict.rows(sampler.samples)
    none = soak_verdict.facts(counts, sorted(sampler.lasting), sampler.missed)
    holds = soak_verdict.holds(grown, none)
    return {
        "seconds": seconds, "rate": rate, "retention_s": retention_s, **counts, "holds": holds, "rows": grown,
        "none": none, "lasting": sorted(sampler.lasting), "errors": dict(record.errors.most_common(20)),
        "at_rest": rest, "remains_bytes": sampler.remains_bytes, "samples": sampler.samples,
    }  # fmt: skip


def as_markdown(whole: dict[str, Any]) -> str:
    lines = [soak_verdict.as_markdown(whole["rows"], whole["none"]), ""]
    lines += [f"Without a TTL: `{name}`." for name in whole["lasting"][:10]]
    lines += [f"{number} × {sentence}." for sentence, number in whole["errors"].items()]
    hours = TOMBSTONE_MS // 3_600_000
    lines.append(
        f"An ended stream leaves {whole['remains_bytes']:,} bytes of metadata for {hours} hours; taken off here."
    )
    verdict = "nothing grew" if whole["holds"] else "RED"
    load = f"{whole['rate']:g} streams a second, logs kept for {whole['retention_s']} s"
    lines.append(f"{whole['seconds'] / 60:.3g} minutes, {load}: {verdict}. {output.provenance(whole)}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
