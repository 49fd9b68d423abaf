"""The table of the benchmark: medians, spreads, bars met and missed."""

from __future__ import annotations

from loadtest.bench import table


def test_a_row_has_the_median_and_the_spread() -> None:
    [row] = table.rows({"paced_cpu": [50.0, 70.0, 55.0]}, {"paced_cpu": [400.0]})
    assert (row["median"], row["spread"], row["met"], row["naive"]) == (55.0, [50.0, 70.0], True, 400.0)


def test_bars_are_met_from_the_right_side() -> None:
    assert table.is_met(table.FIGURES["fan_out"], 151)
    assert not table.is_met(table.FIGURES["fan_out"], 149)
    assert table.is_met(table.FIGURES["idle_sse"], 16)
    assert not table.is_met(table.FIGURES["idle_sse"], 16.1)
    assert table.is_met(table.FIGURES["paced_edge"], 1e9) is None


def test_only_what_was_measured_is_shown() -> None:
    rows = table.rows({"idle_sse": [10.0], "fan_out": [100.0]}, {})
    assert [row["key"] for row in rows] == ["fan_out", "idle_sse"]


def test_the_text_says_met_or_missed() -> None:
    lines = table.as_text(table.rows({"idle_sse": [10.0], "fan_out": [100.0]}, {}), with_naive=False).splitlines()
    assert "MISSED" in lines[1]
    assert " met" in lines[2]
    assert "naive" not in lines[0]
