"""Owns the long-lived tasks of a process: one that ends is logged, counted and started anew. Knows no task's work."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from tokenrelay.protocol.runtime.instruments import Instrument
from tokenrelay.protocol.runtime.redis import describe

MAX_PAUSE_S: Final = 5.0
FIRST_PAUSE_S: Final = 0.1
STEADY_S: Final = 10.0
"""A task that has run for this long has recovered: its next failure is a first one."""

log = structlog.get_logger()


class Supervisor:
    """`failures` counts by the label `task`. A task that fails again and again is tried again for ever, at most
    `MAX_PAUSE_S` apart; meanwhile it stands in `in_trouble`."""

    def __init__(self, failures: Instrument) -> None:
        self._failures = failures
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._is_closing = False
        self.in_trouble: dict[str, str] = {}  # task → what ended it, until it has run for `STEADY_S` again

    def __repr__(self) -> str:
        return f"<Supervisor {len(self._tasks)} tasks | in trouble: {', '.join(self.in_trouble) or 'none'}>"

    def own(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Start a task and keep it running until `close`. `run` is called anew for each try."""
        self._tasks[name] = asyncio.create_task(self._keep(name, run), name=name)

    async def close(self) -> None:
        """End all tasks; returns when they have ended."""
        self._is_closing = True
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _keep(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        failures = 0
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
            failures = 0 if time.monotonic() - began_at >= STEADY_S else failures
            failures += 1
            self.in_trouble[name] = describe(cause)
            self._failures.labels(name).inc()
            log.error("task_failed", task=name, failures=failures, error=describe(cause), exc_info=cause)
            await asyncio.sleep(pause_s(failures))


def pause_s(failures: int) -> float:
    """Before the next try, after so many failures in a row; with jitter, so that processes do not return together."""
    longest = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures, 10))
    return random.uniform(0.5, 1.0) * longest  # noqa: S311
