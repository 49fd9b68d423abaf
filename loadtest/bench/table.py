"""The figures with their targets, and the table they are printed as. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final


@dataclass(frozen=True)
class Figure:
    """One row. `bar` and `floor_bar` None: shown for the sake of the others. `at_least`: more is better."""

    title: str
    unit: str
    bar: float | None = None
    at_least: bool = False
    decimals: int = 1
    floor_bar: float | None = None  # as a multiple of what the floor takes in the same run


FIGURES: Final[dict[str, Figure]] = {
    "pickup_idle_p50": Figure("dispatch, few in flight, p50", "ms", 3),
    "pickup_idle_p99": Figure("dispatch, few in flight, p99", "ms", 15),
    "pickup_busy_p50": Figure("dispatch, many in flight, p50", "ms", 3),
    "pickup_busy_p99": Figure("dispatch, many in flight, p99", "ms", 15),
    "ttft_idle_p50": Figure("TTFT added, few in flight, p50", "ms", 3),
    "ttft_growth": Figure("the same with many in flight", "x", 1.5, decimals=2),
    "ttft_loaded_p50": Figure("TTFT added under paced load, p50", "ms", 10),
    "ttft_loaded_p99": Figure("TTFT added under paced load, p99", "ms", 40),
    "play_20": Figure("CPU a token, 20 answers at 20 tokens/s", "us", floor_bar=1.8),
    "play_50": Figure("  50 answers", "us", floor_bar=1.8),
    "play_100": Figure("  100 answers", "us", floor_bar=1.5),
    "play_500": Figure("  500 answers", "us", floor_bar=1.5),
    "play_ttft_alone": Figure("TTFT, one answer at a time, p50", "ms", floor_bar=1.5),
    "play_ttft_20": Figure("TTFT, ten starts every 50 ms, 20 answers, p50", "ms", floor_bar=3),
    "play_ttft_50": Figure("  50 answers", "ms", floor_bar=3),
    "play_ttft_100": Figure("  100 answers", "ms", floor_bar=3),
    "play_ttft_500": Figure("  500 answers", "ms", floor_bar=3),
    "start_cpu": Figure("CPU a start, with one token", "us", floor_bar=4),
    "start_edge": Figure("  of it edge", "us"),
    "start_worker": Figure("  of it worker", "us"),
    "start_redis": Figure("  of it Redis", "us"),
    "paced_cpu": Figure("CPU a token, paced load", "us", 60),
    "paced_edge": Figure("  of it edge", "us"),
    "paced_worker": Figure("  of it worker", "us"),
    "paced_redis": Figure("  of it Redis", "us"),
    "free_cpu": Figure("CPU a token, model unthrottled", "us", 12),
    "free_edge": Figure("  of it edge", "us"),
    "free_worker": Figure("  of it worker", "us"),
    "free_redis": Figure("  of it Redis", "us"),
    "free_rate": Figure("  tokens a second", "k"),
    "handler_cpu": Figure("CPU a part of a Python handler, unthrottled", "us"),
    "handler_edge": Figure("  of it edge", "us"),
    "handler_worker": Figure("  of it worker", "us"),
    "handler_redis": Figure("  of it Redis", "us"),
    "front_cpu": Figure("CPU a token over Chat Completions, paced load", "us"),
    "front_paced": Figure("  as a multiple of our own SSE", "x", 1.2, decimals=2),
    "front_free": Figure("  the same, model unthrottled", "x", 1.2, decimals=2),
    "fan_out": Figure("fan-out, events an edge CPU-second", "k", 150, at_least=True),
    "fan_out_ratio": Figure("  as a multiple of naive", "x", 6, at_least=True),
    "reading_sse": Figure("500 viewers at 20 tokens/s: edge CPU an event", "us"),
    "reading_sse_p50": Figure("  age of an event when it comes, p50", "ms"),
    "reading_ws": Figure("  edge CPU an event, WebSocket", "us"),
    "reading_ws_p50": Figure("  age of an event, WebSocket, p50", "ms"),
    "idle_sse": Figure("idle SSE connection", "KiB", 16),
    "idle_ws": Figure("idle WebSocket connection", "KiB", 28),
    "replay_p50": Figure("resume of 2,000 tokens, p50", "ms", 10),
    "cut_off": Figure("all cut off at once, until all are whole", "s", 3, decimals=2),
    "stalled_memory": Figure("stalled reader, memory in the edge", "KiB", 64),
    "stalled_slowing": Figure("  what others take the longer for it", "%", 10),
}

FLOOR: Final = "floor"
"""The build that figures are multiples of."""

Values = Mapping[str, Sequence[float]]


def rows(ours: Values, others: Mapping[str, Values]) -> list[dict[str, Any]]:
    """The shape that `--json` writes; only what was measured. `others`: by build."""
    return [_row(key, figure, ours[key], others) for key, figure in FIGURES.items() if ours.get(key)]


def _row(key: str, figure: Figure, values: Sequence[float], others: Mapping[str, Values]) -> dict[str, Any]:
    middle = median(values)
    floor = others.get(FLOOR, {}).get(key)
    times_floor = round(middle / median(floor), 3) if floor and median(floor) > 0 else None
    return {
        "key": key,
        "title": figure.title.strip(),
        "unit": figure.unit,
        "bar": figure.bar,
        "at_least": figure.at_least,
        "median": round(middle, 3),
        "spread": _spread(values),
        "floor_bar": figure.floor_bar,
        "times_floor": times_floor,
        "met": is_met(figure, middle, times_floor),
        "off_by": off_by(figure, middle, times_floor),
        "others": {
            name: {"median": round(median(of[key]), 3), "spread": _spread(of[key])}
            for name, of in others.items()
            if of.get(key)
        },
    }


def _spread(values: Sequence[float]) -> list[float]:
    return [round(min(values), 3), round(max(values), 3)]


def is_met(figure: Figure, value: float, times_floor: float | None = None) -> bool | None:
    """None where there is no bar, or the floor was not measured beside it."""
    if figure.floor_bar is not None:
        return None if times_floor is None else times_floor <= figure.floor_bar
    if figure.bar is None:
        return None
    return value >= figure.bar if figure.at_least else value <= figure.bar


def off_by(figure: Figure, value: float, times_floor: float | None = None) -> float | None:
    """By what share of the bar it is missed; None where it is met or there is none."""
    if is_met(figure, value, times_floor) is not False:
        return None
    if figure.floor_bar is not None and times_floor is not None:
        return round((times_floor - figure.floor_bar) / figure.floor_bar, 4)
    if figure.bar is None:
        return None
    return round(abs(value - figure.bar) / figure.bar, 4)


def verdict(row: Mapping[str, Any]) -> str:
    """`met`, or by how much not."""
    if row["met"] is None:
        return ""
    return "met" if row["met"] else f"MISSED by {row['off_by']:.0%}" if row["off_by"] >= 0.005 else "MISSED by <1%"


def as_text(measured: Sequence[Mapping[str, Any]], others: Sequence[str]) -> str:
    head = f"{'figure':<42}{'median':>10}  {'spread':<17}{'bar':>12}  {'':<14}"
    has_floor = FLOOR in others
    lines = [head + (f"{'x floor':>11}" if has_floor else "") + "".join(f"{name:>11}" for name in others)]
    for row in measured:
        title, middle, spread, bar = _cells(row)
        line = f"{title:<42}{middle:>10}  {spread:<17}{bar:>12}  {verdict(row):<14}"
        line += f"{_times_floor(row):>11}" if has_floor else ""
        line += "".join(f"{_other(row, name):>11}" for name in others)
        lines.append(line if bar else f"{line} {row['unit']}")
    return "\n".join(line.rstrip() for line in lines)


def as_markdown(measured: Sequence[Mapping[str, Any]], others: Sequence[str]) -> str:
    has_floor = FLOOR in others
    head = ("figure", "median", "spread", "bar", "", *(("x floor",) if has_floor else ()), *others)
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in measured:
        title, middle, spread, bar = _cells(row)
        cells = [
            title.replace("  ", "… ", 1) if title.startswith("  ") else title,
            f"{middle} {row['unit']}",
            spread,
            bar,
        ]
        beside = [*([_times_floor(row)] if has_floor else []), *(_other(row, name) for name in others)]
        lines.append(f"| {' | '.join([*cells, verdict(row), *beside])} |")
    return "\n".join(lines)


def _cells(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    figure = FIGURES[row["key"]]
    (low, high), digits = row["spread"], figure.decimals
    bar = "" if row["bar"] is None else f"{'>=' if row['at_least'] else '<='} {row['bar']:g} {row['unit']}"
    if row["floor_bar"] is not None:
        bar = f"<= {row['floor_bar']:g} x floor"
    return figure.title, f"{row['median']:,.{digits}f}", f"{low:,.{digits}f}-{high:,.{digits}f}", bar


def _other(row: Mapping[str, Any], name: str) -> str:
    """`-`: it was not measured, or does not mean the same there."""
    other = row["others"].get(name)
    return "-" if other is None else f"{other['median']:,.{FIGURES[row['key']].decimals}f}"


def _times_floor(row: Mapping[str, Any]) -> str:
    return "-" if row["times_floor"] is None else f"{row['times_floor']:.2f}"
