"""The pause between two trips: by the load, within its bounds."""

from __future__ import annotations

import pytest

from tokenrelay.workers.append.pace import LEAST_S, MOST_S, Pace


def after(seconds: float, rate: float, pace: Pace | None = None, at: float = 100.0) -> Pace:
    """A pace after so many seconds of so many entries a second, trips as far apart as it says."""
    pace = pace or Pace()
    end, due = at + seconds, 0.0
    while at < end:
        at += pace.pause_s
        due += rate * pace.pause_s
        count, due = int(due), due % 1
        pace.trip(at, count, is_whole=True)
    return pace


@pytest.mark.parametrize(
    ("rate", "low", "high"), [(50, 2, 2), (150, 2, 3), (600, 5, 7), (2_000, 10, 10), (1e6, 10, 10)]
)
def test_it_follows_the_load(rate: float, low: float, high: float) -> None:
    pace = after(2, rate)
    assert low <= pace.pause_s * 1000 <= high, pace


def test_it_falls_again_when_the_load_does() -> None:
    pace = after(2, 5_000)
    assert pace.pause_s == MOST_S
    assert after(2, 50, pace, 102).pause_s == LEAST_S


def test_an_idle_worker_forgets_at_once() -> None:
    pace = after(2, 5_000)
    pace.trip(200.0, 1, is_whole=True)
    assert pace.pause_s == LEAST_S


def test_what_one_trip_cannot_take_does_not_wait_for_more() -> None:
    pace = after(2, 5_000)
    pace.trip(102.01, 256, is_whole=False)
    assert pace.pause_s == LEAST_S
