"""A rolling restart with a crowd of readers; the full size: `make rolling CLIENTS=1000`."""

from __future__ import annotations

import pytest

from tests.chaos.rolling import run

CLIENTS, DRAIN_S = 150, 3.0


@pytest.mark.timeout(120)
def test_a_rolling_restart_loses_nothing_and_readers_come_back_spread_out() -> None:
    outcome = run(CLIENTS, DRAIN_S, interval_ms=50, coming_s=1.0)
    print(outcome.histogram())
    assert outcome.faults == []
    for index in range(2):
        times = outcome.after(index)
        assert len(times) >= CLIENTS / 3
        # From the tenth to the ninetieth in a hundred more than half the window passes; sent off all at once, the
        # advice alone would spread them over less than a second.
        tenth, ninetieth = times[len(times) // 10], times[len(times) * 9 // 10]
        assert ninetieth - tenth > DRAIN_S / 2, outcome.histogram()
