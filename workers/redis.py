"""How a worker opens Redis: in the form arq wants."""

from __future__ import annotations

from typing import Final

import msgpack
from arq import ArqRedis
from redis.exceptions import RedisError

from tokenrelay.protocol.runtime import redis as runtime
from tokenrelay.protocol.runtime.address import Tls
from tokenrelay.protocol.runtime.redis import NO_TLS

MAX_CONNECTIONS: Final = 16

AWAY: Final = (RedisError, OSError)
"""What redis-py raises when Redis is away or will not work."""


def open_pool(url: str, queue_name: str, tls: Tls = NO_TLS) -> ArqRedis:
    """A client with a bounded pool. Jobs are msgpack, never pickle. Raises ValueError for a bad address."""
    return ArqRedis(
        pool_or_conn=runtime.open_pool(url, MAX_CONNECTIONS, tls),
        job_serializer=msgpack.packb,
        job_deserializer=msgpack.unpackb,
        default_queue_name=queue_name,
    )
