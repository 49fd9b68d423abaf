"""A model's health: rolling figures, and a circuit that opens, lets one call try, and closes."""

from __future__ import annotations

import pytest

from tokenrelay.protocol.models import circuit as health
from tokenrelay.protocol.models.circuit import Outcome, Record
from tokenrelay.protocol.models.routing_rules import HealthRules

RULES = HealthRules(smoothing=0.5, half_life_s=10, open_after_failures=3, open_after_calls=6, open_s=10, max_open_s=25)


def after(story: str, record: Record | None = None, at: float = 100.0) -> Record:
    """A past from letters: `f` failed, `s` succeeded after 100 ms; all at one time."""
    record = record or Record()
    for letter in story:
        record = record.failed(RULES, at) if letter == "f" else record.succeeded(RULES, at, 100)
    return record


STORIES = [
    ("", "closed"), ("f", "closed"), ("ff", "closed"), ("fff", "open"), ("ffsff", "closed"), ("ffsfff", "open"),
    ("sfsfff", "open"), ("ffsffs", "closed"), ("ffsffsff", "open"),
]  # fmt: skip


@pytest.mark.parametrize(("story", "circuit"), STORIES)
def test_the_circuit_opens_after_failures_in_a_row_or_too_many_of_them(story: str, circuit: str) -> None:
    assert after(story).circuit(100.0) == circuit


def test_one_call_may_try_when_the_rest_is_over() -> None:
    record = after("fff")
    assert (record.circuit(109.9), record.circuit(110.0)) == ("open", "half_open")
    assert (record.rest_s(104.0), record.rest_s(110.0), Record().rest_s(0.0)) == (6.0, 0.0, 0.0)


def test_a_probe_that_succeeds_closes_it() -> None:
    record = after("s", after("fff"), at=111.0)
    assert record.circuit(111.0) == "closed"
    assert record.failures_in_a_row == 0


def test_a_probe_that_fails_doubles_the_rest_up_to_a_bound() -> None:
    record, now, rests = after("fff"), 110.0, []
    for _ in range(3):
        record = record.failed(RULES, now)
        rests.append(record.open_for_s)
        now += record.open_for_s
    assert rests == [20, 25, 25]


def test_a_late_failure_does_not_lengthen_the_rest() -> None:
    assert after("f", after("fff"), at=105.0).open_for_s == 10


def test_the_figures_roll_and_fade() -> None:
    record = Record().succeeded(RULES, 0.0, 100).succeeded(RULES, 0.0, 200)
    assert record.vitals(RULES, 0.0).ttft_ms == 150
    failed = record.failed(RULES, 0.0)
    assert failed.vitals(RULES, 0.0).error_rate == 0.5
    assert failed.vitals(RULES, 10.0).error_rate == 0.25
    assert failed.vitals(RULES, 10.0).ttft_ms == 150


def test_records_are_carried_by_bytes() -> None:
    records = {"a": after("s"), "b": after("fff")}
    raws = {name.encode(): health.pack(record) for name, record in records.items()}
    assert health.unpack_all(raws) == records
    assert health.unpack_all({**raws, b"a": b"\xc1", b"\xff": health.pack(Record())}) == {"b": records["b"]}


def test_outcomes_are_taken_in_order() -> None:
    outcomes = [Outcome(100.0), Outcome(100.0), Outcome(100.0, 100.0), Outcome(100.0)]
    assert after("ffsf") == Record().after(RULES, outcomes)
