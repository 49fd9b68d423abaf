"""A fleet in a storm, seeded: what is done to it, in which order. Knows no client."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable

import redis

from tests.fleet import Fleet

ZOMBIE_S = 9.0
"""Longer than a lease, its suspicion and two looks: what was paused is a zombie when it wakes."""


class Storm:
    """Draws one trouble after the other until it is told to stop; leaves everything running."""

    def __init__(self, fleet: Fleet, dice: random.Random) -> None:
        self._fleet = fleet
        self._dice = dice
        self._pending: set[asyncio.Task[None]] = set()
        self.done: Counter[str] = Counter()
        self._troubles: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (4, self.cut_live_feeds),
            (3, self.cut_all_connections),
            (3, self.kill_worker),
            (2, self.kill_edge),
            (2, self.pause_worker),
            (2, self.drain_edge),
            (2, self.retire_worker),
            (1, self.flush_scripts),
            (1, self.pause_redis),
        ]

    async def rage(self, seconds: float) -> None:
        weights = [weight for weight, _ in self._troubles]
        until = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < until:
            [(_, trouble)] = self._dice.choices(self._troubles, weights)
            self.done[getattr(trouble, "__name__", "?")] += 1
            await trouble()
            await asyncio.sleep(self._dice.uniform(0.2, 1.5))
        await asyncio.gather(*self._pending)

    async def cut_live_feeds(self) -> None:
        self._ask_redis("CLIENT", "KILL", "TYPE", "pubsub")

    async def cut_all_connections(self) -> None:
        self._ask_redis("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def flush_scripts(self) -> None:
        self._ask_redis("SCRIPT", "FLUSH")

    async def kill_worker(self) -> None:
        index = self._dice.randrange(len(self._fleet.workers))
        await asyncio.to_thread(self._fleet.kill_worker, index)
        self._fleet.restart_worker(index)

    async def retire_worker(self) -> None:
        index = self._dice.randrange(len(self._fleet.workers))
        await asyncio.to_thread(self._fleet.kill_worker, index, signal.SIGTERM)
        self._fleet.restart_worker(index)

    async def pause_worker(self) -> None:
        """It goes on in the background: a zombie among the living."""
        worker = self._fleet.workers[self._dice.randrange(len(self._fleet.workers))]
        worker.send_signal(signal.SIGSTOP)

        async def wake() -> None:
            await asyncio.sleep(ZOMBIE_S)
            worker.send_signal(signal.SIGCONT)

        task = asyncio.create_task(wake())
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def kill_edge(self) -> None:
        index = self._dice.randrange(len(self._fleet.edges))
        await asyncio.to_thread(self._fleet.kill_edge, index)
        self._fleet.start_edge(index)

    async def drain_edge(self) -> None:
        index = self._dice.randrange(len(self._fleet.edges))
        await asyncio.to_thread(self._fleet.kill_edge, index, signal.SIGTERM)
        self._fleet.start_edge(index)

    async def pause_redis(self) -> None:
        self._fleet.signal_redis(signal.SIGSTOP)
        await asyncio.sleep(self._dice.uniform(0.5, 6.0))
        self._fleet.signal_redis(signal.SIGCONT)

    def _ask_redis(self, *command: str) -> None:
        client = self._fleet.redis()
        try:
            client.execute_command(*command)
        except redis.ConnectionError:
            pass
        finally:
            client.close()
