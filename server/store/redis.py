"""How an edge uses Redis, and what it says to its callers when that fails."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

from redis.exceptions import AuthenticationError, BusyLoadingError, DataError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.runtime import redis as runtime
from tokenrelay.protocol.runtime.stores.base import Store
from tokenrelay.protocol.store.scripts import Argument, Script

MAX_CONNECTIONS: Final = 32

UNREACHABLE: Final = (RedisConnectionError, RedisTimeoutError, OSError)
"""What redis-py raises when Redis is away."""

WAIT_S: Final = 3.0
"""How long a read waits for a state of Redis that passes (BUSY, LOADING, rights that are missing)."""

_FIRST_PAUSE_S: Final = 0.05
T = TypeVar("T")


async def run(store: Store, script: Script, arguments: Sequence[Argument], tag: str | None = None) -> Any:
    """Run a script. Raises TokenrelayError SERVICE_UNAVAILABLE when Redis is away or writes nothing now; RedisError:
    our own fault."""
    with asking():
        return await store.run(script, arguments, tag)


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """What a read gives; error replies of Redis that may pass are waited for, for `WAIT_S`.

    Raises TokenrelayError SERVICE_UNAVAILABLE, and RedisError for what stays so however long one waits.
    """
    until, pause = time.monotonic() + WAIT_S, _FIRST_PAUSE_S
    while True:
        try:
            return await ask()
        except (*UNREACHABLE, RedisError) as error:
            refused = refusal(error)
            if refused is None:
                raise
            if not may_pass(error) or time.monotonic() + pause > until:
                raise refused from error
        await asyncio.sleep(pause)
        pause = min(2 * pause, 0.5)


def may_pass(error: Exception) -> bool:
    """An error reply; where there is no connection, redis-py has tried again already."""
    return isinstance(error, (ResponseError, BusyLoadingError, AuthenticationError))


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
    """SERVICE_UNAVAILABLE where it helps to come again; None for what is wrong with the data or with us."""
    if isinstance(error, UNREACHABLE) and not may_pass(error):
        return away()
    if isinstance(error, DataError) or runtime.is_about_the_data(error):
        return None
    return TokenrelayError("SERVICE_UNAVAILABLE", "the store takes nothing now; try again", retry_after=5)


def away() -> TokenrelayError:
    return TokenrelayError("SERVICE_UNAVAILABLE", "the store cannot be reached now; try again", retry_after=2)
