"""`python -m loadtest.bench growth`: what a token costs and how long the first one takes, at four sizes of everything.

Streams at once, viewers of one stream, length of an answer; each size in a fleet of its own, CPU from the server
processes. Through each series goes a straight line (see `laws`). Exit 0 when nothing more than doubles, else 1; 2 when
it could not run.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import redis

from tokenrelay.loadtest import loop, machine
from tokenrelay.loadtest.arguments import count
from tokenrelay.loadtest.bench import laws, output
from tokenrelay.loadtest.bench.crowd import Remote
from tokenrelay.loadtest.bench.measure import probe_many, since
from tokenrelay.loadtest.figures import percentile
from tokenrelay.loadtest.fleet import CannotStart, Fleet

RATE: Final = 20
"""Tokens a second of a stream."""

FAST_MS: Final = 10
FAST_STREAMS: Final = 50
Values: TypeAlias = dict[str, float]


@dataclass(frozen=True)
class Size:
    streams: tuple[int, ...] = (10, 100, 500, 1000)
    viewers: tuple[tuple[int, int], ...] = ((1, 100), (10, 20), (100, 5), (1000, 1))  # of each of so many streams
    lengths: tuple[int, ...] = (10, 50, 200, 1000)
    window_s: float = 6.0
    probes: int = 150
    runs: int = 3


FULL: Final = Size()
QUICK: Final = Size((5, 20, 50, 100), ((1, 20), (5, 10), (20, 5), (100, 1)), (5, 20, 50, 100), 2.0, 20, 1)


def with_streams(number: int, size: Size) -> Values:
    """So many streams of RATE tokens a second, one viewer each; then what a new one waits for its first token."""
    with Fleet() as fleet, Remote("127.0.0.1", fleet.port) as crowd:
        crowd.open("warm", 5, model="scripted?tokens=20&interval_ms=1")
        crowd.ask("wait", group="warm")
        resident = fleet.resident_bytes("edge"), fleet.resident_bytes("worker")
        crowd.open("streams", number, model=f"scripted?tokens=20000&interval_ms={1000 // RATE}")
        time.sleep(1)
        values = window(fleet, crowd, size.window_s)
        values["edge_kib"] = (fleet.resident_bytes("edge") - resident[0]) / number / 1024
        values["worker_kib"] = (fleet.resident_bytes("worker") - resident[1]) / number / 1024
        samples = [ttft * 1000 for _, ttft in loop.run(probe_many(fleet, size.probes))]
    return {**values, "ttft_p50": percentile(samples, 0.5), "ttft_p99": percentile(samples, 0.99)}


def with_viewers(pair: tuple[int, int], size: Size) -> Values:
    """Some streams of RATE tokens a second with so many viewers each."""
    viewers, streams = pair
    with Fleet() as fleet, Remote("127.0.0.1", fleet.port) as crowd:
        ids = crowd.open_all("writers", streams, model=f"scripted?tokens=20000&interval_ms={1000 // RATE}")
        for stream_id in ids:
            if viewers > 1:
                crowd.open("viewers", viewers - 1, stream_id=stream_id)
        time.sleep(1)
        return window(fleet, crowd, size.window_s)


def with_length(tokens: int, size: Size) -> Values:
    """Answers of so many tokens, one after the other on each of some connections: what an answer costs as a whole."""
    rounds = max(1, math.ceil(size.window_s * 1000 / (FAST_MS * tokens + 20)))
    with Fleet() as fleet, Remote("127.0.0.1", fleet.port) as crowd:
        model = f"scripted?tokens={tokens}&interval_ms={FAST_MS}"
        answers(crowd, f"scripted?tokens=10&interval_ms={FAST_MS}", 5)
        store = redis.Redis.from_url(fleet.redis_url)
        used: Any = store.info("memory")
        cpu, begun = fleet.cpu_seconds(), time.perf_counter()
        answers(crowd, model, rounds)
        spent, took = since(cpu, fleet), time.perf_counter() - begun
        after: Any = store.info("memory")
        streams = rounds * FAST_STREAMS
        return {
            **{f"{part}_us": seconds / streams * 1e6 for part, seconds in spent.items()},
            "cpu_us": sum(spent.values()) / streams * 1e6,
            "redis_bytes": (after["used_memory"] - used["used_memory"]) / streams,
            "streams_a_second": streams / took,
        }


def answers(crowd: Remote, model: str, rounds: int) -> None:
    for number in range(rounds):
        crowd.open(f"round {number}", FAST_STREAMS, model=model)
        crowd.ask("wait", group=f"round {number}")
        crowd.ask("close", group=f"round {number}")


def window(fleet: Fleet, crowd: Remote, seconds: float) -> Values:
    """CPU of each part and what was delivered, for some seconds."""
    before, cpu = crowd.ask("mark"), fleet.cpu_seconds()
    time.sleep(seconds)
    after, spent = crowd.ask("mark"), since(cpu, fleet)
    took, events = after["at"] - before["at"], after["events"] - before["events"]
    return {
        **{f"{part}_us": part_s / events * 1e6 for part, part_s in spent.items()},
        **{f"{part}_share": part_s / took for part, part_s in spent.items()},
        "cpu_us": sum(spent.values()) / events * 1e6,
        "events_a_second": events / took,
        "bytes_an_event": (after["bytes"] - before["bytes"]) / events,
    }


def measure(size: Size, told: Callable[[str], None]) -> dict[str, Any]:
    """All three series. The sizes of a series take turns, so that what disturbs the machine disturbs all."""
    series: dict[str, list[dict[str, Any]]] = {}
    kinds: list[tuple[str, Sequence[Any], Callable[[Any, Size], Values]]] = [
        ("streams", size.streams, with_streams), ("viewers", size.viewers, with_viewers),
        ("lengths", size.lengths, with_length),
    ]  # fmt: skip
    for name, sizes, how in kinds:
        runs: list[list[Values]] = [[] for _ in sizes]
        for run in range(size.runs):
            for position, each in enumerate(sizes):
                told(f"{name} {each if isinstance(each, int) else each[0]}, run {run + 1} of {size.runs}")
                runs[position].append(how(each, size))
        series[name] = [
            laws.point(each if isinstance(each, int) else each[0], of) for each, of in zip(sizes, runs, strict=True)
        ]
    return series


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m loadtest.bench growth",
        description="More streams, more viewers, longer answers: what they cost.",
    )
    made.add_argument("--quick", action="store_true", help="one run, small sizes: shows the way, is no evidence")
    made.add_argument("--runs", type=count, default=FULL.runs, metavar="N", help="of each size (3)")
    output.arguments(made, "growth")
    return made


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    base = QUICK if options.quick else FULL
    size = base if options.quick else Size(runs=options.runs)
    about = machine.describe()
    try:
        series = measure(size, lambda text: print(f"growth: {text}", file=sys.stderr, flush=True))
    except (CannotStart, RuntimeError) as error:
        print(f"growth: {error}", file=sys.stderr)
        return 2
    whole = {
        "command": output.command("growth", argv), "date": output.today(), "machine": about, "quick": options.quick,
        "runs": size.runs, "rate": RATE, "series": series, "laws": laws.of(series),
    }  # fmt: skip
    output.deliver(options, whole, laws.as_markdown(whole))
    return 0 if laws.holds(series) or options.quick else 1


if __name__ == "__main__":
    sys.exit(main())
