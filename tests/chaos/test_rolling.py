"""A rolling restart with a crowd of readers; the full size: `make rolling CLIENTS=1000`."""

from __future__ import annotations

import pytest

from tests.chaos.rolling import run

CLIENTS, DRAIN_S = 60, 3.0


@pytest.mark.timeout(300)
def test_a_rolling_restart_loses_nothing() -> None:
    outcome = run(CLIENTS, DRAIN_S, interval_ms=100, coming_s=1.0)
    print(outcome.histogram())
    assert outcome.faults == []
    # Everybody was sent away by the second edge at the latest. How they are spread is held without a clock, in
    # tests/server/test_drain.py; on a machine that is busy with other tests times say nothing.
    assert len(outcome.reconnects) >= CLIENTS
