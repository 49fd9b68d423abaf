"""Streams that run while their cluster changes under them: each is whole, nothing is lost and nothing comes twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.cluster.servers import Servers
from tests.cluster.storm import EVENTS, killed_with_its_tail, moved_key_by_key, storm
from tests.fleet import ON_CLUSTER, Fleet

STREAMS = 24
PLAYED = EVENTS if ON_CLUSTER else (killed_with_its_tail, moved_key_by_key)
"""All of them by `make test-cluster`."""


@pytest.mark.parametrize("event", PLAYED, ids=lambda event: event.__name__)
def test_all_streams_are_whole(event: Callable[[Servers], None]) -> None:
    with Fleet(edges=2, workers=2, replicas=1, env={"TOKENRELAY_REDIS_PARTITIONS": "4"}) as fleet:
        told, _ = storm(fleet, event, STREAMS)
        tracebacks = fleet.tracebacks()
    assert len(told) == STREAMS
    assert [each for each in told if not each.is_whole] == []
    assert not tracebacks
