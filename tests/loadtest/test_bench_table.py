"""The table of the benchmark: medians, spreads, bars met and missed."""

from __future__ import annotations

from tokenrelay.loadtest.bench import table


def test_a_row_has_the_median_and_the_spread() -> None:
    [row] = table.rows({"paced_cpu": [50.0, 70.0, 55.0]}, {"naive": {"paced_cpu": [400.0]}, "nchan": {}})
    assert (row["median"], row["spread"], row["met"]) == (55.0, [50.0, 70.0], True)
    assert row["others"] == {"naive": {"median": 400.0, "spread": [400.0, 400.0]}}


def test_bars_are_met_from_the_right_side() -> None:
    assert table.is_met(table.FIGURES["fan_out"], 151)
    assert not table.is_met(table.FIGURES["fan_out"], 149)
    assert table.is_met(table.FIGURES["idle_sse"], 16)
    assert not table.is_met(table.FIGURES["idle_sse"], 16.1)
    assert table.is_met(table.FIGURES["paced_edge"], 1e9) is None


def test_only_what_was_measured_is_shown() -> None:
    rows = table.rows({"idle_sse": [10.0], "fan_out": [100.0]}, {})
    assert [row["key"] for row in rows] == ["fan_out", "idle_sse"]


ROWS = table.rows(
    {"idle_sse": [10.0], "fan_out": [100.0], "idle_ws": [28.1]}, {"naive": {"fan_out": [20.0]}, "nchan": {}}
)


def test_the_text_says_met_or_by_how_much_not() -> None:
    lines = table.as_text(ROWS, []).splitlines()
    assert "MISSED by 33%" in lines[1]
    assert " met" in lines[2]
    assert "MISSED by <1%" in lines[3]
    assert "naive" not in lines[0]


def test_what_does_not_mean_the_same_elsewhere_is_a_dash() -> None:
    lines = table.as_text(ROWS, ["naive", "nchan"]).splitlines()
    assert lines[0].split()[-2:] == ["naive", "nchan"]
    assert lines[1].split()[-2:] == ["20.0", "-"]
    assert lines[2].split()[-2:] == ["-", "-"]


def test_the_page_has_the_same_cells() -> None:
    lines = table.as_markdown(ROWS, ["naive", "nchan"]).splitlines()
    assert lines[0] == "| figure | median | spread | bar |  | naive | nchan |"
    assert lines[2] == (
        "| fan-out, events an edge CPU-second | 100.0 k | 100.0-100.0 | >= 150 k | MISSED by 33% | 20.0 | - |"
    )


def test_a_bar_that_is_a_multiple_of_the_floor() -> None:
    ours, floor = {"play_20": [150.0, 190.0, 170.0]}, {"floor": {"play_20": [100.0]}}
    [row] = table.rows(ours, floor)
    assert (row["times_floor"], row["met"], row["off_by"]) == (1.7, True, None)
    assert table.as_text([row], ["floor"]).splitlines()[1].split()[-2:] == ["1.70", "100.0"]
    assert "| <= 1.8 x floor | met | 1.70 | 100.0 |" in table.as_markdown([row], ["floor"])
    [row] = table.rows({"play_20": [270.0]}, floor)
    assert (row["met"], row["off_by"], table.verdict(row)) == (False, 0.5, "MISSED by 50%")
    [row] = table.rows(ours, {})  # measured without it, it says nothing
    assert (row["times_floor"], row["met"], table.verdict(row)) == (None, None, "")
