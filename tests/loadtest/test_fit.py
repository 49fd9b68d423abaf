"""Lines through points, what they say of a soak, of growth, and of the machines a load takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tokenrelay.loadtest.bench import capacity, fit, laws, output, soak_verdict
from tokenrelay.loadtest.bench.capacity import Load


def test_a_line_goes_through_its_points() -> None:
    line = fit.line([1, 2, 3], [5, 7, 9])
    assert (line.fixed, line.each, line.r2) == pytest.approx((3, 2, 1))
    assert line.at(10) == pytest.approx(23)
    assert line.formula("y", "x") == "y = 3 + 2 × x"
    assert fit.Line(1, -2, 1).formula("y", "x") == "y = 1 - 2 × x"
    assert fit.Line.from_object(line.to_object()) == line


def test_a_line_says_how_well_it_fits() -> None:
    assert fit.line([0, 1, 2, 3], [0, 3, 0, 3]).r2 == pytest.approx(0.2)
    assert fit.line([0, 1], [4, 4]).r2 == 1


@pytest.mark.parametrize(("xs", "ys"), [([1], [1]), ([2, 2], [1, 3]), ([1, 2], [1])])
def test_what_is_no_line_is_refused(xs: list[float], ys: list[float]) -> None:
    with pytest.raises(ValueError):
        fit.line(xs, ys)


def samples(**an_hour: float) -> list[dict[str, float]]:
    """An hour, a sample a minute; every quantity at 100 but for what it gains in the hour."""
    return [
        {"at_s": minute * 60, "streams": minute * 60}
        | {key: 100 + an_hour.get(key, 0) * minute / 60 for key in soak_verdict.QUANTITIES}
        for minute in range(61)
    ]


def test_what_is_flat_holds() -> None:
    rows = soak_verdict.rows(samples())
    assert [row["key"] for row in rows] == list(soak_verdict.QUANTITIES)
    assert soak_verdict.holds(rows, [])
    assert "GREW" not in soak_verdict.as_markdown(rows, [])


@pytest.mark.parametrize("key", soak_verdict.QUANTITIES)
def test_what_grows_turns_it_red(key: str) -> None:
    rows = soak_verdict.rows(samples(**{key: 400}))
    assert [row["key"] for row in rows if not row["holds"]] == [key]
    assert soak_verdict.as_markdown(rows, []).count("GREW") == 1


def test_growth_is_told_by_the_stream() -> None:
    row = soak_verdict.rows(samples(edge_mib=36))[0]
    assert row["grew"] == pytest.approx(24)  # two thirds of the hour are judged
    assert row["an_hour"] == pytest.approx(36)
    assert row["bytes_a_stream"] == pytest.approx(24 * 2**20 / 2400, abs=0.1)


def test_what_happened_in_the_warm_up_does_not_count() -> None:
    grown = samples()
    for sample in grown[:20]:
        sample["edge_mib"] = 10
    assert soak_verdict.holds(soak_verdict.rows(grown), [])


def test_a_soak_that_was_too_short_says_so() -> None:
    with pytest.raises(ValueError, match="too few"):
        soak_verdict.rows(samples()[:3])


@pytest.mark.parametrize(
    ("counts", "lasting", "missed", "red"),
    [
        ({"streams": 9}, [], [], 0), ({"lost": 1}, [], [], 1), ({"repeated": 2}, [], [], 1), ({"failed": 1}, [], [], 1),
        ({}, ["tr:x"], [], 1), ({}, [], ["OSError"], 1),
    ],
)  # fmt: skip
def test_what_must_be_none(counts: dict[str, int], lasting: list[str], missed: list[str], red: int) -> None:
    facts = soak_verdict.facts(counts, lasting, missed)
    assert sum(not fact["holds"] for fact in facts) == red
    assert soak_verdict.as_markdown([], facts).count("RED") == red


RUN = {"edge_us": 10.0, "worker_us": 20.0, "redis_us": 5.0, "cpu_us": 35.0}


def series() -> dict[str, list[dict[str, Any]]]:
    """Of a server whose edge takes 10, worker 20 and Redis 5 microseconds a token, and 100 ms a second for nothing."""
    streams = [
        laws.point(n, [{
            **RUN, "events_a_second": n * 20.0, "bytes_an_event": 100.0, "ttft_p50": 3.0, "ttft_p99": 9.0,
            "edge_share": 0.1 + n * 20 * 10e-6, "worker_share": 0.1 + n * 20 * 20e-6,
            "redis_share": 0.1 + n * 20 * 5e-6, "edge_kib": 50.0, "worker_kib": 20.0,
        }]) for n in (10, 100, 500, 1000)
    ]  # fmt: skip
    viewers = [laws.point(n, [{**RUN, "bytes_an_event": 100.0, "edge_us": 4 + 6 / n}]) for n in (1, 10, 100, 1000)]
    lengths = [
        laws.point(n, [{
            "edge_us": 1000 + 10.0 * n, "worker_us": 500 + 20.0 * n, "redis_us": 250 + 5.0 * n,
            "cpu_us": 1750 + 35.0 * n, "redis_bytes": 2000 + 50.0 * n, "streams_a_second": 1.0,
        }]) for n in (10, 50, 200, 1000)
    ]  # fmt: skip
    return {"streams": streams, "viewers": viewers, "lengths": lengths}


def fitted() -> dict[str, fit.Line]:
    return {name: fit.Line.from_object(law) for name, law in laws.of(series()).items()}


def test_the_laws_of_growth_are_found_again() -> None:
    known = fitted()
    assert known["edge_a_token"].each == pytest.approx(10)
    assert known["edge_a_token"].fixed == pytest.approx(100_000)
    assert known["edge_a_viewer"].each == pytest.approx(4)
    assert known["worker_an_answer"].fixed == pytest.approx(500)
    assert known["redis_bytes"].each == pytest.approx(50)


def test_the_worst_size_is_held_against_the_first() -> None:
    grown = series()
    assert laws.holds(grown)
    grown["streams"][2]["ttft_p50"] = 6.1
    assert not laws.holds(grown)
    assert laws.ratios(grown)["ttft_p50"] == pytest.approx(6.1 / 3)


def test_the_page_has_a_row_for_each_size() -> None:
    machine = {"processor": "p", "memory": "m", "system": "s", "python": "3"}
    whole = {
        "series": series(), "laws": laws.of(series()), "rate": 20, "runs": 3, "quick": False, "command": "c",
        "machine": machine,
    }  # fmt: skip
    page = laws.as_markdown(whole)
    assert "| 1,000 | 3.0 | 9.0 | 35.0 | 10 + 20 + 5 | 50.0 KiB | 20.0 KiB |" in page
    assert "1.00 × that with 10: met" in page
    assert "| Redis, bytes an answer | y = 2000 + 50 × tokens of it | 1.000 |" in page


def test_machines_follow_from_the_laws() -> None:
    load = Load(streams=1000, rate=20, length=500, busy=0.5)
    needs = capacity.need(fitted(), load, edge_kib=64)
    # 20,000 tokens a second at 10 + 1000/500 microseconds, on cores that are half used.
    assert needs.edge == pytest.approx(20_000 * 12 / 1e6 / 0.5)
    assert needs.worker == pytest.approx(20_000 * 21 / 1e6 / 0.5)
    assert needs.redis == pytest.approx(20_000 * 5.5 / 1e6 / 0.5)
    assert needs.cells == 1
    assert needs.redis_log_gib == pytest.approx(40 * 3600 * (2000 + 50 * 500) / 2**30)
    assert needs.gbit_a_second == pytest.approx(20_000 * 136 * 8 / 1e9)
    assert capacity.streams_a_core(fitted(), "redis", load) == int(0.5e6 / (5.5 * 20))


def test_more_viewers_cost_the_edge_only() -> None:
    one, ten = Load(viewers=1), Load(viewers=10)
    assert capacity.token_us(fitted(), "edge", ten) - capacity.token_us(fitted(), "edge", one) == pytest.approx(36)
    assert capacity.token_us(fitted(), "worker", ten) == capacity.token_us(fitted(), "worker", one)


def test_a_million_tokens_have_their_price() -> None:
    load = Load(length=500, busy=0.5, core_hour=0.36)
    assert capacity.cost_a_million(fitted(), load) == pytest.approx((12 + 21 + 5.5) / 3600 / 0.5 * 0.36)
    assert "| 1,000 | 20,000 |" in capacity.as_markdown(fitted(), load, 50)


def test_a_page_is_filled_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- idle -->\nold\n<!-- /idle -->\nb\n")
    output.fill(page, "idle", "new\n")
    assert page.read_text() == "a\n<!-- idle -->\nnew\n<!-- /idle -->\nb\n"
    with pytest.raises(ValueError, match="has no <!-- soak -->"):
        output.fill(page, "soak", "new")
