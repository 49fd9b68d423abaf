"""A model's health: rolling figures, and a circuit that opens, lets one call try, and closes."""

from __future__ import annotations

import msgspec
import pytest

from protocol.rules import HealthRules
from workers.routing.health import PROBE_S, Health, Record

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
    assert record.circuit(109.9) == "open"
    assert record.probing(109.9) == record
    assert record.circuit(110.0) == "half-open"
    probing = record.probing(110.0)
    assert probing.circuit(110.0) == "open"
    assert probing.circuit(110.0 + PROBE_S) == "half-open"


def test_a_probe_that_succeeds_closes_it() -> None:
    record = after("s", after("fff").probing(110.0), at=111.0)
    assert record.circuit(111.0) == "closed"
    assert record.failures_in_a_row == 0


def test_a_probe_that_fails_doubles_the_rest_up_to_a_bound() -> None:
    record, now, rests = after("fff"), 110.0, []
    for _ in range(3):
        record = record.probing(now).failed(RULES, now)
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


def test_health_keeps_one_record_a_model_and_can_be_carried() -> None:
    health = Health(RULES)
    health.asked("a", 0.0)
    health.succeeded("a", 1.0, 80)
    for _ in range(3):
        health.failed("b", 1.0)
    vitals = health.vitals(2.0)
    assert (vitals["a"].circuit, vitals["a"].ttft_ms, vitals["b"].circuit) == ("closed", 80, "open")
    carried = msgspec.msgpack.decode(msgspec.msgpack.encode(health.records), type=dict[str, Record])
    assert Health(RULES, carried).vitals(2.0) == vitals
    assert repr(health) == "<Health 2 models | 1 resting>"
