"""The series that `growth` measured, as lines with constants and as tables. Measures nothing.

Each law is `y = fixed + each × x`, by least squares. CPU against what was delivered gives the price of one more token,
not the average one: what an idle process does is in `fixed`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final, TypeAlias

from tokenrelay.loadtest.bench import fit, output

PARTS: Final = ("edge", "worker", "redis")
DOUBLES: Final = 2.0

Point: TypeAlias = Mapping[str, Any]
Series: TypeAlias = Mapping[str, Sequence[Point]]


def point(size: int, runs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Of one size: each value's median, and its lowest and highest under `spread`."""
    spread = {
        name: [round(min(run[name] for run in runs), 4), round(max(run[name] for run in runs), 4)] for name in runs[0]
    }
    return {"size": size, **{name: round(median(run[name] for run in runs), 4) for name in runs[0]}, "spread": spread}


def of(series: Series) -> dict[str, dict[str, Any]]:
    """name → {y, x, fixed, each, r2}. CPU in microseconds, times in milliseconds, memory in bytes or KiB."""
    streams, viewers, lengths = series["streams"], series["viewers"], series["lengths"]
    laws = {"ttft_p50": ("TTFT p50, ms", "streams", _line(streams, "size", "ttft_p50"))}
    for part in PARTS:
        # A share of a core is microseconds a second when times 1e6.
        xs = [each["events_a_second"] for each in streams]
        ys = [each[f"{part}_share"] * 1e6 for each in streams]
        laws[f"{part}_a_token"] = (f"{part}, µs a second", "tokens a second", fit.line(xs, ys))
    # Of a token written, what its viewers make of it: an event each.
    xs = [each["size"] for each in viewers]
    laws["edge_a_viewer"] = (
        "edge, µs a token",
        "viewers",
        fit.line(xs, [each["edge_us"] * each["size"] for each in viewers]),
    )
    for part in PARTS:
        laws[f"{part}_an_answer"] = (f"{part}, µs an answer", "tokens of it", _line(lengths, "size", f"{part}_us"))
    laws["redis_bytes"] = ("Redis, bytes an answer", "tokens of it", _line(lengths, "size", "redis_bytes"))
    return {name: {"y": y, "x": x, **law.to_object()} for name, (y, x, law) in laws.items()}


def _line(points: Sequence[Point], x: str, y: str) -> fit.Line:
    return fit.line([each[x] for each in points], [each[y] for each in points])


def ratios(series: Series) -> dict[str, float]:
    """The worst size against the first, of what must not more than double with more streams."""
    streams = series["streams"]
    return {name: max(each[name] for each in streams) / streams[0][name] for name in ("ttft_p50", "cpu_us")}


def holds(series: Series) -> bool:
    return all(ratio <= DOUBLES for ratio in ratios(series).values())


def as_markdown(whole: Mapping[str, Any]) -> str:
    series = whole["series"]
    parts = [
        f"Streams of {whole['rate']} tokens a second, one viewer each:\n\n" + _streams(series["streams"]),
        f"Viewers of each stream, {whole['rate']} tokens a second:\n\n" + _viewers(series["viewers"]),
        "Tokens an answer has, all of it from the request to the end:\n\n" + _lengths(series["lengths"]),
        _verdicts(series),
        _laws(whole["laws"]),
    ]
    if whole["quick"]:
        parts.append("--quick: small sizes, one run; no evidence.")
    runs = f"Median of {whole['runs']} runs (lowest–highest). " if whole["runs"] > 1 else ""
    parts.append(runs + output.provenance(whole))
    return "\n\n".join(parts)


def _spread(each: Point, name: str, decimals: int = 1) -> str:
    low, high = each["spread"][name]
    around = f" ({low:,.{decimals}f}–{high:,.{decimals}f})" if low != high else ""
    return f"{each[name]:,.{decimals}f}{around}"


def _streams(points: Sequence[Point]) -> str:
    head = (
        "streams",
        "TTFT p50, ms",
        "p99",
        "CPU a token, µs",
        "edge + worker + Redis",
        "memory of a stream, edge",
        "worker",
    )
    rows = [
        (
            f"{each['size']:,}", _spread(each, "ttft_p50"), _spread(each, "ttft_p99"), _spread(each, "cpu_us"),
            _parts(each), f"{each['edge_kib']:.1f} KiB", f"{each['worker_kib']:.1f} KiB",
        )
        for each in points
    ]  # fmt: skip
    return output.table(head, rows)


def _viewers(points: Sequence[Point]) -> str:
    head = (
        "viewers",
        "CPU an event delivered, µs",
        "edge + worker + Redis",
        "of the edge, a token written, µs",
        "bytes an event",
    )
    rows = [
        (
            f"{each['size']:,}", _spread(each, "cpu_us"), _parts(each), f"{each['edge_us'] * each['size']:,.0f}",
            f"{each['bytes_an_event']:,.0f}",
        )
        for each in points
    ]  # fmt: skip
    return output.table(head, rows)


def _lengths(points: Sequence[Point]) -> str:
    head = ("tokens", "CPU an answer, ms", "edge + worker + Redis, µs", "CPU a token of it, µs", "Redis keeps, KiB")
    rows = [
        (
            f"{each['size']:,}", f"{each['cpu_us'] / 1000:,.2f}", _parts(each), f"{each['cpu_us'] / each['size']:,.1f}",
            f"{each['redis_bytes'] / 1024:,.1f}",
        )
        for each in points
    ]  # fmt: skip
    return output.table(head, rows)


def _parts(each: Point) -> str:
    return " + ".join(f"{each[f'{part}_us']:,.0f}" for part in PARTS)


def _verdicts(series: Series) -> str:
    names = {"ttft_p50": "TTFT p50", "cpu_us": "CPU a token"}
    first, last = series["streams"][0]["size"], series["streams"][-1]["size"]
    said = [
        f"{names[name]} at its worst is {ratio:.2f} × that with {first}: {'met' if ratio <= DOUBLES else 'MISSED'}"
        for name, ratio in ratios(series).items()
    ]
    return f"From {first} to {last:,} streams (bar: {DOUBLES:g} ×): {'; '.join(said)}."


def _laws(laws: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        (law["y"], fit.Line.from_object(dict(law)).formula("y", law["x"]), f"{law['r2']:.3f}") for law in laws.values()
    ]
    return output.table(("y", "least squares", "R²"), rows)
