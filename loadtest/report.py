"""One run as text and as one self-contained HTML file with SVG plots. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from tokenrelay.loadtest.figures import COUNTS, QUANTITIES, Record

TITLES: Final = {
    "connect_ms": "connect",
    "ttft_ms": "time to first token",
    "gap_ms": "gap between tokens",
    "resume_ms": "resume",
    "completion_ms": "completion",
}
STAGE_TITLES: Final = {
    "admit_ms": "received to enqueued (edge)",
    "queue_ms": "to taken by a worker",
    "pickup_ms": "to the model asked (worker)",
    "failed_ms": "calls that failed before",
    "provider_ms": "to its first token (model)",
    "append_ms": "to in the log (Redis)",
    "edge_ms": "at the edge to in the socket",
    "hops_ms": "the ways between",
}
LABEL: Final = 32
COLUMNS: Final = ("p50", "p95", "p99", "max", "count")
WIDTH: Final = 720
HEIGHT: Final = 240
MARGIN: Final = 48
COLOURS: Final = ("#0b6e99", "#c77700", "#a11d33")
STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;max-width:760px;margin:2rem auto;padding:0 1rem;color:#1c1c1c;background:#fff}
table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}
td,th{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}svg{width:100%;height:auto}svg text{font:11px system-ui,sans-serif}
.bar{width:200px}.bar svg{height:10px}
.good{color:#1a6b2f}.bad{color:#a11d33}code{overflow-wrap:anywhere}.pairs td{text-align:left}
"""

Points = Sequence[tuple[float, float]]


def as_text(summary: Mapping[str, Any], health: Mapping[str, Any]) -> str:
    lines = [f"{'':{LABEL}}" + "".join(f"{column:>11}" for column in COLUMNS)]
    for name in QUANTITIES:
        figures = summary[name]
        cells = "".join(f"{figures[column]:>11.2f}" for column in COLUMNS[:-1])
        lines.append(f"{TITLES[name] + ', ms':{LABEL}}{cells}{figures['count']:>11}")
    lines += _stage_lines(summary["stages"])
    lines.append("  ".join(f"{name} {summary[name]}" for name in COUNTS))
    lines += [f"  {number} x {sentence}" for sentence, number in summary["errors"].items()]
    lines.append(generator_line(health))
    return "\n".join(lines)


def _stage_lines(stages: Mapping[str, Any]) -> list[str]:
    if not any(figures["count"] for figures in stages.values()):
        return []
    lines = ["of the time to first token, by the server's clocks:"]
    for name, figures in stages.items():
        cells = "".join(f"{figures[column]:>11.2f}" for column in COLUMNS[:-1])
        lines.append(f"  {STAGE_TITLES[name]:{LABEL - 2}}{cells}{figures['count']:>11}")
    return lines


def generator_line(health: Mapping[str, Any]) -> str:
    cost = f"{health['cpu_us_per_token']:.0f} us CPU a token, {health['busy']:.0%} of its core at its busiest"
    who = "generator" if health["generators"] == 1 else f"{health['generators']} generators, the busiest"
    line = f"{who}: {cost}, its loop {health['lag_ms_p99']:.0f} ms late at p99"
    if health["was_bottleneck"]:
        line += "\nTHE GENERATOR WAS THE BOTTLENECK: these times are as much its own as the server's; use more of them"
    return line


def as_html(record: Record, health: Mapping[str, Any], about: Mapping[str, str], machine: Mapping[str, str]) -> str:
    """`about`: scenario, command and the like, as rows of a table."""
    summary = record.summary()
    verdict = "bad" if record.trouble else "good"
    says = ", ".join(f"{summary[name]} {name}" for name in COUNTS)
    errors = "".join(f"<tr><td>{escape(text)}</td><td>{number}</td></tr>" for text, number in summary["errors"].items())
    warning = f"<p class=bad>{escape(generator_line(health))}</p>" if health["was_bottleneck"] else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Tokenrelay load test: {escape(about.get("scenario", ""))}</title>
<style>{STYLE}</style></head><body>
<h1>Load test: {escape(about.get("scenario", ""))}</h1>
<p class={verdict}><strong>{says}</strong></p>{warning}
<table><tr><th>ms</th>{"".join(f"<th>{column}</th>" for column in COLUMNS)}</tr>{_figure_rows(summary)}</table>
<h2>Time to first token over time</h2>
{plot(_over(record.ttft_by_second), "seconds since the start", "ms")}
<h2>Where it went</h2>
{_stages(summary["stages"])}
<h2>Streams open over time</h2>
{plot({"open": sorted(record.open_by_second.items())}, "seconds since the start", "streams")}
<h2>Time to first token over concurrency</h2>
{plot(_over(record.ttft_by_open), "streams open when it came (at most)", "ms")}
<h2>Errors</h2>
{f"<table>{errors}</table>" if errors else "<p>None.</p>"}
<h2>The generator</h2><p>{escape(generator_line(health))}</p>
<h2>The run</h2>{_pairs(about)}
<h2>The machine</h2>{_pairs(machine)}
</body></html>
"""


def _over(histograms: Mapping[int, Any]) -> dict[str, Points]:
    shares = {"p50": 0.5, "p95": 0.95, "max": 1.0}
    return {
        name: [(key, histograms[key].percentile(share)) for key in sorted(histograms)] for name, share in shares.items()
    }


def _figure_rows(summary: Mapping[str, Any]) -> str:
    rows: list[str] = []
    for name in QUANTITIES:
        cells = "".join(f"<td>{summary[name][column]:,.2f}</td>" for column in COLUMNS[:-1])
        rows.append(f"<tr><td>{TITLES[name]}</td>{cells}<td>{summary[name]['count']:,}</td></tr>")
    return "".join(rows)


def _stages(stages: Mapping[str, Any]) -> str:
    """A bar for each stage, as long as its p50 beside the longest; p95 in words."""
    longest = max((figures["p50"] for figures in stages.values()), default=0)
    if not any(figures["count"] for figures in stages.values()):
        return "<p>Nothing was measured: the server tells it with the completion of a stream that was started here.</p>"
    rows = "".join(
        f"<tr><td>{STAGE_TITLES[name]}</td><td>{figures['p50']:,.2f}</td><td>{figures['p95']:,.2f}</td>"
        f"<td class=bar>{_bar(figures['p50'] / max(longest, 1e-9))}</td></tr>"
        for name, figures in stages.items()
    )
    head = "<tr><th>ms, by the server's clocks</th><th>p50</th><th>p95</th><th></th></tr>"
    return f"<table>{head}{rows}</table>"


def _bar(share: float) -> str:
    return (
        f'<svg viewBox="0 0 200 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="{200 * share:.1f}" height="10" fill="{COLOURS[0]}"/></svg>'
    )


def _pairs(rows: Mapping[str, str]) -> str:
    cells = (f"<tr><td>{escape(name)}</td><td><code>{escape(value)}</code></td></tr>" for name, value in rows.items())
    return f"<table class=pairs>{''.join(cells)}</table>"


def plot(series: Mapping[str, Points], across: str, up: str) -> str:
    """Lines in one frame, with what the axes are and where they end; a sentence when there is nothing to draw."""
    points = [point for line in series.values() for point in line]
    if not points:
        return "<p>Nothing was measured.</p>"
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    top = max(max(y for _, y in points), 1e-9)
    width, height = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN

    def place(x: float, y: float) -> str:
        return f"{MARGIN + width * (x - left) / max(right - left, 1e-9):.1f},{MARGIN + height * (1 - y / top):.1f}"

    lines, legend = [], []
    for colour, (name, line) in zip(COLOURS, series.items(), strict=False):
        path = " ".join(place(x, y) for x, y in line)
        lines.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{path}"/>')
        lines += [f'<circle r="2" fill="{colour}" cx="{p[0]}" cy="{p[1]}"/>' for p in map(_split, path.split(" "))]
        legend.append(f'<tspan fill="{colour}" dx="12">{escape(name)}</tspan>')
    bottom = HEIGHT - MARGIN
    return f"""<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(up)} over {escape(across)}">
<path d="M{MARGIN} {MARGIN}V{bottom}H{WIDTH - MARGIN}" fill="none" stroke="#888"/>{"".join(lines)}
<text x="{MARGIN - 6}" y="{MARGIN + 4}" text-anchor="end">{top:,.4g}</text>
<text x="{MARGIN - 6}" y="{bottom + 4}" text-anchor="end">0</text>
<text x="{MARGIN}" y="{bottom + 16}">{left:g}</text>
<text x="{WIDTH - MARGIN}" y="{bottom + 16}" text-anchor="end">{right:g}</text>
<text x="{WIDTH / 2}" y="{bottom + 32}" text-anchor="middle">{escape(across)}</text>
<text x="{MARGIN}" y="{MARGIN - 12}">{escape(up)}{"".join(legend)}</text></svg>"""


def _split(point: str) -> tuple[str, str]:
    x, _, y = point.partition(",")
    return x, y
