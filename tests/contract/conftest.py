"""A Redis of one's own for each test of the scripts' contract; any implementation of them runs the same tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.store import Store
from tests.fleet import Fleet


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    with Fleet(edges=0, workers=0) as started:
        yield started


@pytest.fixture
def store(fleet: Fleet) -> Iterator[Store]:
    redis = fleet.redis()
    redis.flushall()
    yield Store(redis)
    redis.close()
