"""The figures with their bars (design: "speed to reach"), and the table they are printed as. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final


@dataclass(frozen=True)
class Figure:
    """One row. `bar` None: shown for the sake of the others. `at_least`: more is better."""

    title: str
    unit: str
    bar: float | None = None
    at_least: bool = False
    decimals: int = 1


FIGURES: Final[dict[str, Figure]] = {
    "pickup_idle_p50": Figure("dispatch, few in flight, p50", "ms", 3),
    "pickup_idle_p99": Figure("dispatch, few in flight, p99", "ms", 15),
    "pickup_busy_p50": Figure("dispatch, many in flight, p50", "ms", 3),
    "pickup_busy_p99": Figure("dispatch, many in flight, p99", "ms", 15),
    "ttft_idle_p50": Figure("TTFT added, few in flight, p50", "ms", 3),
    "ttft_growth": Figure("the same with many in flight", "x", 1.5, decimals=2),
    "ttft_loaded_p50": Figure("TTFT added under paced load, p50", "ms", 10),
    "ttft_loaded_p99": Figure("TTFT added under paced load, p99", "ms", 40),
    "paced_cpu": Figure("CPU a token, paced load", "us", 60),
    "paced_edge": Figure("  of it edge", "us"),
    "paced_worker": Figure("  of it worker", "us"),
    "paced_redis": Figure("  of it Redis", "us"),
    "free_cpu": Figure("CPU a token, model unthrottled", "us", 12),
    "free_edge": Figure("  of it edge", "us"),
    "free_worker": Figure("  of it worker", "us"),
    "free_redis": Figure("  of it Redis", "us"),
    "free_rate": Figure("  tokens a second", "k"),
    "fan_out": Figure("fan-out, events an edge CPU-second", "k", 150, at_least=True),
    "fan_out_ratio": Figure("  as a multiple of naive", "x", 6, at_least=True),
    "idle_sse": Figure("idle SSE connection", "KiB", 16),
    "idle_ws": Figure("idle WebSocket connection", "KiB", 28),
    "replay_p50": Figure("resume of 2,000 tokens, p50", "ms", 10),
    "cut_off": Figure("all cut off at once, until all are whole", "s", 3, decimals=2),
    "stalled_memory": Figure("stalled reader, memory in the edge", "KiB", 64),
    "stalled_slowing": Figure("  what others take the longer for it", "%", 10),
}

Values = Mapping[str, Sequence[float]]


def rows(ours: Values, naive: Values) -> list[dict[str, Any]]:
    """The shape that `--json` writes; only what was measured."""
    return [_row(key, figure, ours[key], naive.get(key, ())) for key, figure in FIGURES.items() if ours.get(key)]


def _row(key: str, figure: Figure, values: Sequence[float], naive: Sequence[float]) -> dict[str, Any]:
    middle = median(values)
    return {
        "key": key,
        "title": figure.title.strip(),
        "unit": figure.unit,
        "bar": figure.bar,
        "at_least": figure.at_least,
        "median": round(middle, 3),
        "spread": [round(min(values), 3), round(max(values), 3)],
        "met": is_met(figure, middle),
        "naive": round(median(naive), 3) if naive else None,
    }


def is_met(figure: Figure, value: float) -> bool | None:
    """None where there is no bar."""
    if figure.bar is None:
        return None
    return value >= figure.bar if figure.at_least else value <= figure.bar


def as_text(measured: Sequence[Mapping[str, Any]], with_naive: bool) -> str:
    head = f"{'figure':<42}{'median':>10}  {'spread':<17}{'bar':>12}  {'':<7}"
    lines = [head + (f"{'naive':>10}" if with_naive else "")]
    for row in measured:
        figure = FIGURES[row["key"]]
        low, high = row["spread"]
        bar = "" if row["bar"] is None else f"{'>=' if row['at_least'] else '<='} {row['bar']:g} {row['unit']}"
        met = {None: "", True: "met", False: "MISSED"}[row["met"]]
        spread = f"{low:,.{figure.decimals}f}-{high:,.{figure.decimals}f}"
        line = f"{figure.title:<42}{row['median']:>10,.{figure.decimals}f}  {spread:<17}{bar:>12}  {met:<7}"
        if with_naive and row["naive"] is not None:
            line += f"{row['naive']:>10,.{figure.decimals}f}"
        lines.append(f"{line} {row['unit']}" if row["bar"] is None else line)
    return "\n".join(line.rstrip() for line in lines)
