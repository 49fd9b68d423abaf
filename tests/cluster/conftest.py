"""One cluster of three primaries for all tests of this folder that do not break it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.servers import Servers


@pytest.fixture(scope="session")
def shared() -> Iterator[Servers]:
    with Servers(3) as servers:
        yield servers


@pytest.fixture
def servers(shared: Servers) -> Servers:
    """Empty."""
    shared.flush()
    return shared
