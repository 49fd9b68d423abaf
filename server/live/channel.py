"""One generation at this edge: its feed, its readers, and how long it has been quiet. Knows no Redis."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from tokenrelay.protocol.reading.feed import Feed
from tokenrelay.protocol.reading.session import STUCK_S, Session
from tokenrelay.protocol.store import keys

QUIET_S: Final = 3.0
"""A feed that heard nothing for this long asks the log; then at twice the pause each time, up to `MOST_QUIET_S`."""

MOST_QUIET_S: Final = 15.0

MAX_WAITING_BYTES: Final = 32 * 1024
"""Of a window that is kept for readers whose writes wait. Large tokens come to megabytes in a second."""


class Reader(Protocol):
    """One who reads: a transport's end of a session."""

    session: Session

    def wake(self) -> None:
        """There may be something to do: events, an end."""
        ...

    def is_stuck(self, now: float, /) -> bool:
        """True when its write has waited for so long that the window is not to be kept for it."""
        ...


class Channel:
    """One generation here: its feed, its readers, and when it last was heard of."""

    def __init__(self, stream_id: str, now: float, *, is_new: bool) -> None:
        self.feed = Feed(stream_id)
        self.readers: set[Reader] = set()
        self.coming = 0  # opened for somebody who has neither joined nor left yet; they keep it open as well
        self.name = keys.live(stream_id).encode()
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.heard_at = now
        self._quiet_s = QUIET_S
        self.refill: asyncio.Task[None] | None = None  # None unless a gap is being read
        self.is_lost = False  # the log is no longer there although the feed had not ended
        self.is_unreadable = False  # lost because what is in the log is no entry of ours
        self.may_be_missing = is_new  # opened before its stream is made: until somebody joins, no metadata is no loss

    def __repr__(self) -> str:
        return f"<Channel {self.feed!r} | {len(self.readers)} readers>"

    def wake(self) -> None:
        for reader in self.readers:
            reader.wake()

    def heard(self, now: float) -> None:
        """Something came."""
        self.heard_at = now
        self._quiet_s = QUIET_S

    def is_quiet(self, now: float) -> bool:
        """True when nothing was heard for so long that the log should be asked; then only after twice that time."""
        if not self.feed.is_anchored or self.feed.has_ended or now - self.heard_at < self._quiet_s:
            return False
        self.heard_at = now
        self._quiet_s = min(self._quiet_s * 2, MOST_QUIET_S)
        return True

    def lose(self, *, is_unreadable: bool = False) -> None:
        """What is missing is nowhere any more, or cannot be read; the readers end in words."""
        self.is_lost = True
        self.is_unreadable = is_unreadable
        self.wake()

    def trim(self, now: float) -> None:
        """Keep what a reader that moves still lacks; one that is stuck reads the log when it moves again."""
        self.feed.trim(self._slowest(now))
        if self.feed.weight > MAX_WAITING_BYTES:  # so much is not kept for those who wait, however short a time
            self.feed.trim(self._slowest(now + STUCK_S))

    def _slowest(self, now: float) -> int:
        """The cursor of the last reader that is not stuck by then."""
        return min(
            (reader.session.cursor for reader in self.readers if not reader.is_stuck(now)), default=self.feed.last
        )
