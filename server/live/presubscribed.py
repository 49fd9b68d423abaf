"""Streams yet to come, subscribed to already: one that is started does not wait for Redis to acknowledge. Knows no
reader."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog

from tokenrelay.protocol.runtime.live_feed import LiveFeed
from tokenrelay.protocol.store import keys

MOST: Final = 32
"""Starts in one breath that find one; those beyond subscribe for themselves."""

log = structlog.get_logger()


class Presubscribed:
    """Ids that nobody has yet. One that is taken stays subscribed: it is the taker's to unsubscribe."""

    def __init__(self, live: LiveFeed, new_id: Callable[[], str]) -> None:
        self._live = live
        self._new_id = new_id
        self._ids: deque[str] = deque()
        self._connects = 0  # the connection over which they were acknowledged, by its number

    def __repr__(self) -> str:
        return f"<Presubscribed {len(self._ids)}>"

    @property
    def is_low(self) -> bool:
        return len(self._ids) <= MOST // 2

    def take(self) -> str | None:
        """None when there is none whose subscription holds."""
        if not self._live.is_connected or self._live.connects != self._connects or not self._ids:
            return None
        return self._ids.popleft()

    async def fill(self) -> None:
        """Returns when there are as many as there should be, or when Redis does not acknowledge."""
        if self._live.connects != self._connects:  # those of a connection before this one prove nothing
            while self._ids:
                self._live.unsubscribe(_channel(self._ids.popleft()))
            self._connects = self._live.connects
        connects = self._connects
        new = [self._new_id() for _ in range(MOST - len(self._ids))]
        answers = await asyncio.gather(*(self._live.subscribe(_channel(each)) for each in new), return_exceptions=True)
        if any(answers) or self._live.connects != connects:
            log.warning("presubscriptions_not_filled")
            for each in new:
                self._live.unsubscribe(_channel(each))
        else:
            self._ids.extend(new)


def _channel(stream_id: str) -> bytes:
    return keys.live(stream_id).encode()
