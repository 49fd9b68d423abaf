"""asyncio's Event and Queue for the one or two that wait at a connection; nothing is allocated until somebody does.

asyncio's keep a deque each for those who wait, and a deque takes 624 bytes when it is empty: a WebSocket connection
holds six of them, of its 30 KiB.
"""

from __future__ import annotations

import asyncio
from typing import Any


class LeanEvent:
    """`asyncio.Event`, method for method."""

    __slots__ = ("_is_set", "_waiters")

    def __init__(self) -> None:
        self._is_set = False
        self._waiters: list[asyncio.Future[None]] | None = None  # None while nobody waits

    def __repr__(self) -> str:
        return f"<LeanEvent {'set' if self._is_set else 'clear'} | {len(self._waiters or ())} wait>"

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        self._is_set = False

    async def wait(self) -> bool:
        """Returns True once it is set, also when it has been cleared since."""
        if self._is_set:
            return True
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter.cancelled() and self._waiters is not None:
                self._waiters.remove(waiter)
        return True


class LeanQueue:
    """`asyncio.Queue` without a bound of its own, as far as uvicorn uses it. Whoever puts looks at `qsize`."""

    __slots__ = ("_arrived", "_items")

    def __init__(self) -> None:
        self._items: list[Any] = []
        self._arrived = LeanEvent()

    def __repr__(self) -> str:
        return f"<LeanQueue {len(self._items)} items>"

    def qsize(self) -> int:
        return len(self._items)

    def empty(self) -> bool:
        return not self._items

    def put_nowait(self, item: Any) -> None:
        self._items.append(item)
        self._arrived.set()

    async def get(self) -> Any:
        while not self._items:
            self._arrived.clear()
            await self._arrived.wait()
        return self._items.pop(0)
