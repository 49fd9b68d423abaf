"""How a worker opens Redis; refuses to know what the commands mean."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgpack
from arq import ArqRedis
from redis.asyncio import BlockingConnectionPool, ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError

from protocol.address import SentinelAddress, parse_sentinel
from protocol.scripts import Argument, Script

COMMAND_TIMEOUT_S: Final = 5.0
MAX_CONNECTIONS: Final = 16

AWAY = (RedisError, OSError)
"""What redis-py raises when Redis is away or will not work."""


class _CountsTrips:
    """A command, or a pipeline of them, takes a connection once: so that is how often Redis was asked."""

    round_trips = 0

    async def get_connection(self, *args: Any, **kwargs: Any) -> Any:
        self.round_trips += 1
        return await super().get_connection(*args, **kwargs)  # type: ignore[misc]


class Pool(_CountsTrips, BlockingConnectionPool):
    """redis-py's, counting."""


class SentinelPool(_CountsTrips, SentinelConnectionPool):
    """The same behind Sentinel."""


def round_trips(redis: ArqRedis) -> int:
    """How often the commands' connections were used since the start."""
    pool = redis.connection_pool
    return pool.round_trips if isinstance(pool, _CountsTrips) else 0


def open_pool(url: str, queue_name: str) -> ArqRedis:
    """A client with a bounded pool, in the form arq wants. Jobs are msgpack, never pickle.

    A `redis+sentinel://` address (see `protocol.address`) follows the primary. Raises ValueError for a bad address.
    """
    options: dict[str, Any] = {
        "socket_timeout": COMMAND_TIMEOUT_S,
        "socket_connect_timeout": COMMAND_TIMEOUT_S,
        "socket_keepalive": True,
        "health_check_interval": 15,
        "retry": Retry(ExponentialBackoff(cap=0.2, base=0.02), 1),
        "retry_on_error": [RedisConnectionError],
    }
    sentinel = parse_sentinel(url)
    pool: ConnectionPool
    if sentinel is not None:
        pool = _sentinel_pool(sentinel, options)
    else:
        if url.startswith("unix:"):
            del options["socket_keepalive"]
        pool = Pool.from_url(url, max_connections=MAX_CONNECTIONS, timeout=COMMAND_TIMEOUT_S, **options)
    pool.connection_class = _steady(pool.connection_class)
    return ArqRedis(
        pool_or_conn=pool,
        job_serializer=msgpack.packb,
        job_deserializer=msgpack.unpackb,
        default_queue_name=queue_name,
    )


def _steady(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    """A kind of connection whose every loss is one that redis-py knows, and tries again after.

    uvloop says RuntimeError ("the handler is closed") of a write to a socket that was reset while nobody read from it;
    asyncio's own loop does not, and redis-py hands it on.
    """

    class Steady(kind):  # type: ignore[misc,valid-type]
        async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
            try:
                await super().send_packed_command(command, check_health)
            except RuntimeError as error:
                raise RedisConnectionError("the connection was closed") from error

    return Steady


def _sentinel_pool(address: SentinelAddress, options: dict[str, Any]) -> SentinelConnectionPool:
    own = {"socket_timeout": 1.0, "username": address.sentinel_username, "password": address.sentinel_password}
    sentinel = Sentinel(list(address.hosts), sentinel_kwargs=own)  # type: ignore[no-untyped-call]
    options |= {"db": address.db, "username": address.username, "password": address.password}
    return SentinelPool(address.service, sentinel, max_connections=MAX_CONNECTIONS, **options)  # type: ignore[no-untyped-call]


def own_connection(redis: ArqRedis) -> AbstractConnection:
    """A connection of its own with the pool's address and credentials."""
    kwargs = {**redis.connection_pool.connection_kwargs, "health_check_interval": 0}
    return redis.connection_pool.connection_class(**kwargs)


def wire_of(connection: AbstractConnection) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The streams of an open connection, for the one place here where redis-py's own reading costs too much.

    Private to redis-py, which is pinned below 6 (arq needs that). Raises ConnectionError when it is not open.
    """
    reader, writer = connection._reader, connection._writer  # noqa: SLF001
    if reader is None or writer is None:
        raise ConnectionError("the connection is not open")
    return reader, writer


async def run(redis: ArqRedis, script: Script, arguments: Sequence[Argument]) -> Any:
    """Run a script by its SHA; a Redis that does not know it is given the text. Raises what is in `AWAY`."""
    try:
        return await redis.execute_command("EVALSHA", *arguments)  # type: ignore[no-untyped-call]
    except NoScriptError:
        return await redis.execute_command("EVAL", script.text, *arguments[1:])  # type: ignore[no-untyped-call]
