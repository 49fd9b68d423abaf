"""Owns the long-lived tasks of a process: one that ends is logged, counted and started anew. Knows no task's work."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

import hiredis
import structlog
from redis.exceptions import RedisError

from tokenrelay.protocol.runtime.instruments import Instrument
from tokenrelay.protocol.runtime.redis import describe

MAX_PAUSE_S: Final = 5.0
FIRST_PAUSE_S: Final = 0.1
STEADY_S: Final = 10.0
"""A task that has run for this long has recovered: its next failure is a first one."""

HOPELESS_S: Final = 60.0
"""A vital task that has not recovered for so long by a fault of our own will not: another process may."""

log = structlog.get_logger()


class Supervisor:
    """`failures` counts by the label `task`. A task that fails again and again is tried again, at most `MAX_PAUSE_S`
    apart; meanwhile it stands in `in_trouble`. Where it is vital and the cause is within the process, that goes on for
    `HOPELESS_S`: then `give_up` is called with its name, once."""

    def __init__(self, failures: Instrument, give_up: Callable[[str], None] = lambda _: None) -> None:
        self._failures = failures
        self._give_up = give_up
        self._has_given_up = False
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._is_closing = False
        self.in_trouble: dict[str, str] = {}  # task → what ended it, until it has run for `STEADY_S` again

    def __repr__(self) -> str:
        return f"<Supervisor {len(self._tasks)} tasks | in trouble: {', '.join(self.in_trouble) or 'none'}>"

    def own(self, name: str, run: Callable[[], Awaitable[None]], *, is_vital: bool = False) -> None:
        """Start a task and keep it running until `close`. `run` is called anew for each try. `is_vital`: without it the
        process does nothing that it is there for."""
        self._tasks[name] = asyncio.create_task(self._keep(name, run, is_vital), name=name)

    async def close(self) -> None:
        """End all tasks; returns when they have ended."""
        self._is_closing = True
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _keep(self, name: str, run: Callable[[], Awaitable[None]], is_vital: bool) -> None:
        failures = 0
        fault_since = time.monotonic()  # when the row of failures began that are our own
        loop = asyncio.get_running_loop()
        while True:
            began_at = time.monotonic()
            steady = loop.call_later(STEADY_S, self.in_trouble.pop, name, None)
            try:
                await run()
                cause: BaseException = RuntimeError("it returned")
            except asyncio.CancelledError as error:
                # One that nobody asked for comes out of something this task waited for: a fault like any other.
                if self._is_closing or (current := asyncio.current_task()) is None or current.cancelling():
                    raise
                cause = error
            except Exception as error:
                cause = error
            finally:
                steady.cancel()
            now = time.monotonic()
            failures = 0 if now - began_at >= STEADY_S else failures
            failures += 1
            if failures == 1 or is_from_outside(cause):
                fault_since = now
            self.in_trouble[name] = describe(cause)
            self._failures.labels(name).inc()
            log.error("task_failed", task=name, failures=failures, error=describe(cause), exc_info=cause)
            if is_vital and not self._has_given_up and now - fault_since >= HOPELESS_S:
                self._has_given_up = True
                log.critical("task_given_up", task=name, failures=failures, error=describe(cause))
                self._give_up(name)
            await asyncio.sleep(pause_s(failures))


def is_from_outside(cause: BaseException) -> bool:
    """Redis, the network or a file: it passes without us, however long it takes."""
    outside = (RedisError, hiredis.HiredisError, OSError, TimeoutError)
    return isinstance(cause, outside) or isinstance(cause.__cause__, outside)


def pause_s(failures: int) -> float:
    """Before the next try, after so many failures in a row; with jitter, so that processes do not return together."""
    longest = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures, 10))
    return random.uniform(0.5, 1.0) * longest  # noqa: S311
