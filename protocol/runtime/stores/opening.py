"""Opens what TOKENRELAY_REDIS_URL names."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from tokenrelay.protocol.runtime import redis as runtime
from tokenrelay.protocol.runtime.address import Tls, parse_cluster
from tokenrelay.protocol.runtime.redis import NO_TLS
from tokenrelay.protocol.runtime.stores.base import Store
from tokenrelay.protocol.runtime.stores.cluster import Cluster
from tokenrelay.protocol.runtime.stores.one_server import OneServer

FIRST_S: Final = 2.0
"""How long a process waits for the cluster before it begins without: a server may start before its Redis does."""

log = structlog.get_logger()


def open_store(url: str, most: int, tls: Tls = NO_TLS, number: int = 1) -> Store:
    """At most so many connections for commands (to each server of a cluster); nothing is connected yet. `number`: the
    partitions of a cluster. Raises ValueError for a bad address."""
    cluster = parse_cluster(url)
    if cluster is not None:
        return Cluster(cluster, number, most, tls)
    return OneServer(Redis.from_pool(runtime.open_pool(url, most, tls)))


async def begin(store: Store) -> None:
    """Once, before it is used. Ends the process where the cluster has another number of partitions."""
    with contextlib.suppress(RedisError, OSError, TimeoutError):
        async with asyncio.timeout(FIRST_S):
            await store.insist()
