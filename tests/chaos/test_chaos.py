"""A short storm, the same each time; longer ones: `make chaos SEED=7 MINUTES=5`."""

from __future__ import annotations

import pytest

from tests.chaos.__main__ import run


@pytest.mark.timeout(240)
def test_a_short_storm_loses_nothing() -> None:
    tally = run(seed=20, seconds=30, clients=40)
    assert tally.faults == []
    assert sum(tally.ends.values()) > 40


@pytest.mark.timeout(240)
def test_a_storm_round_the_only_worker_loses_nothing() -> None:
    """Each time that it is killed or leaves there is nobody: what starts meanwhile waits for the next one."""
    tally = run(seed=3, seconds=25, clients=25, workers=1)
    assert tally.faults == []
    assert sum(tally.ends.values()) > 25
