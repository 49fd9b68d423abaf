"""Judges a soak's samples: whether anything grew after the warm-up, as rows with a limit each. Measures nothing.

A leak is a straight line. Each quantity's samples after the warm-up get one by least squares, and its rise from the
first sample to the last is compared with what noise can explain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tokenrelay.loadtest.bench import fit

WARM_UP: Final = 1 / 3
"""The share of the time that nothing is judged by: pools fill, arenas grow, the first logs expire."""

PARTS: Final = ("edge", "worker", "redis")


@dataclass(frozen=True)
class Quantity:
    """What is sampled. It may rise by `share` of its mean and `spare` more. `per_stream`: a leak would be of each."""

    title: str
    unit: str
    share: float
    spare: float
    decimals: int = 1


QUANTITIES: Final[dict[str, Quantity]] = {
    "edge_mib": Quantity("edge, resident memory", "MiB", 0.03, 1.5),
    "worker_mib": Quantity("worker, resident memory", "MiB", 0.03, 1.5),
    "redis_mib": Quantity("Redis, resident memory", "MiB", 0.05, 1.5),
    "redis_used_mib": Quantity("Redis, used_memory", "MiB", 0.05, 1.0),
    "redis_keys": Quantity("Redis, keys", "", 0.10, 100, 0),
    "edge_fds": Quantity("edge, file descriptors", "", 0.10, 8, 0),
    "worker_fds": Quantity("worker, file descriptors", "", 0.10, 8, 0),
    "redis_fds": Quantity("Redis, file descriptors", "", 0.10, 8, 0),
}

Sample = Mapping[str, float]


def judged(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Those after the warm-up. A sample has `at_s`, `streams` and one value of each quantity."""
    begin = samples[-1]["at_s"] * WARM_UP if samples else 0.0
    return [sample for sample in samples if sample["at_s"] >= begin]


def rows(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """One a quantity. Raises ValueError for fewer than four samples after the warm-up: no line to trust."""
    after = judged(samples)
    if len(after) < 4:
        raise ValueError(f"{len(after)} samples after the warm-up are too few; let it run longer")
    return [_row(key, quantity, after) for key, quantity in QUANTITIES.items()]


def _row(key: str, quantity: Quantity, after: Sequence[Sample]) -> dict[str, Any]:
    times, values = [sample["at_s"] for sample in after], [sample[key] for sample in after]
    rise = fit.line(times, values)
    window_s, streams = times[-1] - times[0], after[-1]["streams"] - after[0]["streams"]
    grew, allowed = rise.each * window_s, quantity.share * sum(values) / len(values) + quantity.spare
    return {
        "key": key,
        "title": quantity.title,
        "unit": quantity.unit,
        "first": round(rise.at(times[0]), 3),
        "last": round(rise.at(times[-1]), 3),
        "grew": round(grew, 3),
        "allowed": round(allowed, 3),
        "an_hour": round(rise.each * 3600, 3),
        "bytes_a_stream": round(grew * 2**20 / streams, 1) if quantity.unit == "MiB" and streams else None,
        "holds": grew <= allowed,
    }


def facts(counts: Mapping[str, int], lasting: Sequence[str], unread: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of what must be none: tokens lost or repeated, streams that failed, keys that would stay for ever.

    `lasting` are names of keys without a TTL seen while it ran or at rest afterwards; `unread` what could not be
    sampled.
    """
    found = [(f"streams that failed, of {counts.get('streams', 0):,}", counts.get("failed", 0))]
    found += [(f"tokens {name}, of {counts.get('tokens', 0):,}", counts.get(name, 0)) for name in ("lost", "repeated")]
    found += [("keys in Redis without a TTL", len(lasting)), ("samples that could not be taken", len(unread))]
    return [{"title": title, "count": count, "holds": count == 0} for title, count in found]


def as_markdown(measured: Sequence[Mapping[str, Any]], none: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| after the warm-up | at its begin | at its end | grew | may grow | an hour | a stream | |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for row in measured:
        decimals, unit = QUANTITIES[row["key"]].decimals, f" {row['unit']}" if row["unit"] else ""
        numbers = [f"{row[name]:,.{decimals}f}{unit}" for name in ("first", "last")]
        numbers += [f"{row['grew']:+,.{decimals}f}{unit}", f"{row['allowed']:,.{decimals}f}{unit}"]
        numbers.append(f"{row['an_hour']:+,.{decimals}f}{unit}")
        numbers.append("" if row["bytes_a_stream"] is None else f"{row['bytes_a_stream']:+,.0f} B")
        lines.append(f"| {row['title']} | {' | '.join(numbers)} | {'flat' if row['holds'] else 'GREW'} |")
    lines += ["", "| must be none | | |", "|---|---|---|"]
    lines += [f"| {row['title']} | {row['count']:,} | {'none' if row['holds'] else 'RED'} |" for row in none]
    return "\n".join(lines)


def holds(measured: Sequence[Mapping[str, Any]], none: Sequence[Mapping[str, Any]]) -> bool:
    return all(row["holds"] for row in (*measured, *none))
