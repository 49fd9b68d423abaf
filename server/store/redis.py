"""How an edge uses Redis, and what it says to its callers when that fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.runtime import redis as runtime
from tokenrelay.protocol.store.scripts import Argument, Script

MAX_CONNECTIONS: Final = 32

UNREACHABLE: Final = (RedisConnectionError, RedisTimeoutError, OSError)
"""What redis-py raises when Redis is away."""

WILL_NOT_WRITE: Final = ("OOM ", "READONLY ", "LOADING ", "MISCONF ", "NOREPLICAS ", "MASTERDOWN ")
"""Redis's words for a state that passes; a script's error has them in the middle of its text."""


def open_pool(url: str) -> Redis:
    """A client with a bounded pool. Raises ValueError for a bad address."""
    return Redis.from_pool(runtime.open_pool(url, MAX_CONNECTIONS))  # closing the client closes the pool


def live_connection(redis: Redis) -> AbstractConnection:
    """A connection of its own, to stay subscribed on."""
    return runtime.own_connection(redis, socket_timeout=None)


async def run(redis: Redis, script: Script, arguments: Sequence[Argument]) -> Any:
    """Run a script. Raises TokenrelayError SERVICE_UNAVAILABLE when Redis is away or writes nothing now; RedisError:
    our own fault."""
    with asking():
        return await runtime.run(redis, script, arguments)


@contextlib.contextmanager
def asking() -> Iterator[None]:
    """Around what asks Redis: its failures leave as `refusal` words them, our own faults as they are."""
    try:
        yield
    except (*UNREACHABLE, RedisError) as error:
        refused = refusal(error)
        if refused is None:
            raise
        raise refused from error


def refusal(error: Exception) -> TokenrelayError | None:
    """SERVICE_UNAVAILABLE where it helps to come again; None for what is our own fault."""
    if isinstance(error, UNREACHABLE):
        return away()
    if isinstance(error, (OutOfMemoryError, ReadOnlyError)) or any(word in str(error) for word in WILL_NOT_WRITE):
        return TokenrelayError("SERVICE_UNAVAILABLE", "the store takes nothing now", retry_after=5)
    return None


def away() -> TokenrelayError:
    return TokenrelayError("SERVICE_UNAVAILABLE", "the store cannot be reached now; try again", retry_after=2)
