"""`python -m loadtest overload`: more streams than two cores carry, without shedding and with it. A scenario of its own
kind, because it starts two fleets and is about those who got in.

Streams arrive at one rate, whatever the server does: first at half of it (what is measured then is what to compare
with), then at all of it. Exit 0 when shedding kept the TTFT p99 of those admitted within twice that at half the load, 1
when not, 2 when it could not run or the rate says nothing about it.
"""

from __future__ import annotations

import argparse
import sys
from typing import Final, NamedTuple

from tokenrelay.loadtest import machine
from tokenrelay.loadtest.arguments import positive
from tokenrelay.loadtest.bench.crowd import Remote
from tokenrelay.loadtest.figures import percentile
from tokenrelay.loadtest.fleet import CannotStart, Fleet

TOKENS: Final = 160
INTERVAL_MS: Final = 50
MODEL: Final = f"scripted?tokens={TOKENS}&interval_ms={INTERVAL_MS}"
BOUND_MS: Final = 200
ALLOWED: Final = 2.0
"""Those admitted may wait for their first token so many times as long as at half the load."""


class Seen(NamedTuple):
    """One stage: how many were admitted and refused, TTFT of the admitted in ms."""

    what: str
    admitted: int
    refused: int
    p50: float
    p99: float


def stage(crowd: Remote, what: str, rate: float, seconds: float) -> Seen:
    """Streams that arrive at one rate, to the end of the last."""
    at_once = max(1, round(rate / 20))
    answer = crowd.ask("play", model=MODEL, count=round(rate * seconds), at_once=at_once, every_s=at_once / rate)
    ttft = answer["ttft_ms"]
    if not ttft:
        raise RuntimeError("nobody was admitted")
    return Seen(what, len(ttft), answer["without_a_token"], percentile(ttft, 0.5), percentile(ttft, 0.99))


def measure(rate: float, seconds: float, bound_ms: int) -> tuple[Seen, Seen]:
    """Half of the rate, then all of it, on one fleet."""
    name = f"shedding at {bound_ms} ms" if bound_ms else "no shedding"
    with Fleet(env={"TOKENRELAY_SHED_LAG_MS": str(bound_ms)}) as fleet, Remote("127.0.0.1", fleet.port) as crowd:
        half = stage(crowd, f"{name}, {rate / 2:g} starts/s", rate / 2, seconds)
        return half, stage(crowd, f"{name}, {rate:g} starts/s", rate, seconds)


def as_text(seen: list[Seen]) -> str:
    lines = [f"{'':<36}{'admitted':>9}{'refused':>9}{'TTFT p50':>12}{'p99':>12}"]
    lines += [f"{s.what:<36}{s.admitted:>9}{s.refused:>9}{s.p50:>9.0f} ms{s.p99:>9.0f} ms" for s in seen]
    return "\n".join(lines)


def verdict(half: Seen, full: Seen) -> tuple[int, str]:
    """The exit code, and why."""
    if half.refused:
        return 2, f"half the load was too much already ({half.refused} refused): choose a lower --rate"
    if not full.refused:
        return 2, "nobody was refused: all of the load was carried, choose a higher --rate"
    times = full.p99 / half.p99
    kept = times <= ALLOWED
    words = f"TTFT p99 of those admitted: {times:.1f} x that at half the load"
    return (0, f"{words}: kept") if kept else (1, f"{words}: NOT kept, {ALLOWED:g} x is allowed")


def main(argv: list[str]) -> int:
    made = argparse.ArgumentParser(prog="python -m loadtest overload", description=__doc__.partition("\n\n")[0])
    made.add_argument("--rate", metavar="STREAMS_PER_S", type=positive, default=150, help="twice what it carries (150)")
    made.add_argument("--duration", metavar="S", type=positive, default=20, help="of each stage, arrivals (20)")
    options = made.parse_args(argv)
    try:
        before = measure(options.rate, options.duration, 0)
        after = measure(options.rate, options.duration, BOUND_MS)
    except (CannotStart, RuntimeError) as error:
        print(f"{made.prog}: {error}", file=sys.stderr)
        return 2
    print(as_text([*before, *after]))
    print("; ".join(f"{name}: {value}" for name, value in machine.describe().items()))
    code, words = verdict(*after)
    print(words)
    return code
