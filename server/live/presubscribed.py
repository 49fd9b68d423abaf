"""Streams yet to come, subscribed to already: one that is started does not wait for Redis to acknowledge. Knows no
reader."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

import structlog

from tokenrelay.protocol.runtime.feeds import Feeds
from tokenrelay.protocol.store import keys

MOST: Final = 32
"""Starts in one breath that find one; those beyond subscribe for themselves."""

Mark: TypeAlias = tuple[str, int]

log = structlog.get_logger()


class Presubscribed:
    """Ids that nobody has yet. One that is taken stays subscribed: it is the taker's to unsubscribe."""

    def __init__(self, live: Feeds, new_id: Callable[[], str], may_use: Callable[[str], bool]) -> None:
        """`may_use`: a stream may begin where this id lies."""
        self._live = live
        self._new_id = new_id
        self._may_use = may_use
        self._ids: deque[tuple[str, Mark]] = deque()  # with the connection over which they were acknowledged

    def __repr__(self) -> str:
        return f"<Presubscribed {len(self._ids)}>"

    @property
    def is_low(self) -> bool:
        return len(self._ids) <= MOST // 2

    def take(self) -> str | None:
        """None when there is none whose subscription holds."""
        while self._ids:
            stream_id, mark = self._ids.popleft()
            channel = _channel(stream_id)
            if self._live.mark(channel) == mark and self._may_use(stream_id):
                return stream_id
            self._live.unsubscribe(channel)  # that of a connection before this one proves nothing
        return None

    async def fill(self) -> None:
        """Returns when there are as many as there should be, or when Redis does not acknowledge."""
        for _ in range(len(self._ids)):
            stream_id, mark = self._ids.popleft()
            if self._live.mark(_channel(stream_id)) == mark:
                self._ids.append((stream_id, mark))
            else:
                self._live.unsubscribe(_channel(stream_id))
        new = [self._new_id() for _ in range(MOST - len(self._ids))]
        if not all(await asyncio.gather(*map(self._subscribe, new))):
            log.warning("presubscriptions_not_filled")
        random.shuffle(self._ids)  # else those of the server that acknowledged first would all be taken first

    async def _subscribe(self, stream_id: str) -> bool:
        channel = _channel(stream_id)
        self._live.want(channel)
        before = self._live.mark(channel)
        with contextlib.suppress(TimeoutError):
            await self._live.subscribe(channel)
            now = self._live.mark(channel)
            if now is not None and before in (None, now):  # acknowledged on this connection
                self._ids.append((stream_id, now))
                return True
        self._live.unsubscribe(channel)
        return False


def _channel(stream_id: str) -> bytes:
    return keys.live(stream_id).encode()
