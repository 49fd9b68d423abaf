"""One fleet for all tests of this folder that do not break it: two edges, one worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fleet import Fleet


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    with Fleet(edges=2, workers=1) as started:
        yield started
