"""Percentiles and records: close to the truth, small, and the same whether merged or not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenrelay.loadtest.figures import Histogram, Record, percentile

VALUES = st.lists(st.floats(min_value=0.01, max_value=1e6), min_size=1, max_size=200)
SHARES = st.sampled_from([0.01, 0.5, 0.95, 0.99, 1.0])


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([5], 0.5, 5), ([1, 2], 0.5, 1), ([1, 2, 3], 0.5, 2), (list(range(1, 101)), 0.99, 99), ([3, 1, 2], 1.0, 3)],
)
def test_percentile_is_the_nearest_rank(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


def test_nothing_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


@given(VALUES, SHARES)
def test_a_histogram_is_within_two_percent_of_the_truth(values: list[float], share: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    assert histogram.percentile(share) == pytest.approx(percentile(values, share), rel=0.021)
    assert histogram.max == max(values)
    assert histogram.percentile(share) <= histogram.max


@given(VALUES, VALUES)
def test_two_merged_are_one(some: list[float], more: list[float]) -> None:
    one, left, right = Histogram(), Histogram(), Histogram()
    for value in some:
        one.add(value)
        left.add(value)
    for value in more:
        one.add(value)
        right.add(value)
    left.merge(Histogram.from_object(json.loads(json.dumps(right.to_object()))))
    assert left.summary() == one.summary()


def test_an_empty_histogram_is_zero() -> None:
    assert Histogram().summary() == {"p50": 0, "p95": 0, "p99": 0, "max": 0, "count": 0}


def test_a_record_has_what_the_contract_names() -> None:
    summary = Record().summary()
    for name in ("ttft_ms", "gap_ms", "resume_ms"):
        assert list(summary[name]) == ["p50", "p95", "p99", "max", "count"]
    assert [summary[name] for name in ("streams", "lost", "repeated", "failed")] == [0, 0, 0, 0]


def test_records_of_two_generators_add_up() -> None:
    here, there = Record(), Record()
    here.first_token(0, 3, 5.0)
    there.first_token(0, 4, 7.0)
    there.fail("refused with 429")
    there.counts["lost"] = 2
    there.split({"queue_ms": 3.0, "ttft_ms": 9.0})
    here.merge(Record.from_object(json.loads(json.dumps(there.to_object()))))
    assert here.summary()["ttft_ms"]["count"] == 2
    assert here.ttft_by_open[4].count == 2
    stages = here.summary()["stages"]
    assert {name: figures["count"] for name, figures in stages.items() if figures["count"]} == {"queue_ms": 1}
    assert here.trouble == 3
    assert here.errors == {"refused with 429": 1}


def test_errors_without_end_do_not_take_memory_without_end() -> None:
    record = Record()
    for number in range(1000):
        record.fail(f"error {number}")
    assert len(record.errors) <= 101
    assert record.counts["failed"] == 1000
