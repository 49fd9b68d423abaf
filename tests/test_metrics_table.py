"""docs/metrics.md lists what the code counts, and nothing else; names follow prometheus.io/docs/practices."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tokenrelay.protocol.runtime.instruments import Instruments, Row
from tokenrelay.server.metrics import Metrics as EdgeMetrics
from tokenrelay.workers.metrics import Metrics as WorkerMetrics

ROOT = Path(__file__).resolve().parent.parent
OF: dict[str, Instruments] = {"edge": EdgeMetrics(), "worker": WorkerMetrics()}
ROWS = [row for counts in OF.values() for row in counts.rows]


def _label(name: str, values: tuple[str, ...]) -> str:
    if not values:
        return f"`{name}`"
    shown = values if len(values) <= 8 else (*values[:3], "…")
    return f"`{name}`: {' '.join(f'`{value}`' for value in shown)}"


def metrics_table(counts: Instruments) -> str:
    """The table as the page has to have it."""
    lines = ["| metric | kind | labels | counts |", "|---|---|---|---|"]
    for row in counts.rows:
        labels = "; ".join(_label(name, values) for name, values in row.labels.items())
        lines.append(f"| `{row.name}` | {row.kind} | {labels} | {row.help} |")
    return "\n".join(lines)


@pytest.mark.parametrize("role", OF)
def test_the_page_has_the_table_of_the_code(role: str) -> None:
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    match = re.search(rf"<!-- {role}:.*?-->\n(.*?)\n<!-- /{role} -->", text, re.DOTALL)
    assert match is not None
    assert match[1] == metrics_table(OF[role])


def test_the_page_names_no_metric_that_is_not_there() -> None:
    known = {row.name for row in ROWS}
    for page in ("metrics.md", "slow-token.md"):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        named = {re.sub("_(bucket|count|sum)$", "", name) for name in re.findall(r"\btokenrelay_[a-z_]+\b", text)}
        assert named - known == set(), page


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_name_says_unit_and_kind(row: Row) -> None:
    assert re.fullmatch("tokenrelay(_[a-z]+)+", row.name)
    assert row.name.endswith("_total") == (row.kind == "counter")
    assert not row.name.endswith(("_ms", "_milliseconds", "_bucket", "_count", "_sum"))
    assert row.help
    assert not row.help.endswith(".")


def test_no_name_stands_there_twice() -> None:
    names = [row.name for row in ROWS]
    assert len(names) == len(set(names))


def test_no_label_can_hold_what_a_caller_typed() -> None:
    """Those without a list of values come from the operator's own catalogue and tools."""
    open_ended = {name for row in ROWS for name, values in row.labels.items() if not values}
    assert open_ended == {"provider", "model", "tool", "handler"}
