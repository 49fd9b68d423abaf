"""One stream on a WebSocket: where its reader stands, what it waits for, what of it is timed. Writes nothing."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Protocol

from tokenrelay.protocol.reading.feed import Chunk, Format
from tokenrelay.protocol.reading.session import Session, Step
from tokenrelay.protocol.store.entries import CorruptEntry
from tokenrelay.server.live import replay
from tokenrelay.server.live.channel import Channel
from tokenrelay.server.live.replay import Replays
from tokenrelay.server.metrics import SAMPLED, Metrics
from tokenrelay.server.timing import RequestTimer


class Home(Protocol):
    """What an attachment is on: a socket."""

    def mark_ready(self, attachment: Attachment) -> None:
        """It may have something to send."""
        ...

    def is_stuck(self, now: float) -> bool:
        """True when a write has waited long enough that nothing should be kept for its readers."""
        ...


class Attachment:
    """A session, and the channel it follows (None: all of it is in the log)."""

    def __init__(
        self, home: Home, session: Session, channel: Channel | None, form: Format, start: RequestTimer | None = None
    ) -> None:
        self.session = session
        self.channel = channel
        self.form = form
        self.start = start  # None for a stream that began elsewhere or earlier, and when all of it has been timed
        self.opened_at = session.cursor
        self.page: asyncio.Future[list[Chunk]] | None = None  # None unless it waits for a page of the log
        self.chunks: deque[Chunk] = deque()  # of a page that has come; let go when the client accepts nothing
        self._home = home
        self._began_here = start

    def wake(self) -> None:
        self._home.mark_ready(self)

    def is_stuck(self, now: float) -> bool:
        return self._home.is_stuck(now)

    def next_chunk(self, replays: Replays, frame: Frame) -> Chunk | None:
        """What there is for its session now; None while there is nothing: it is woken when there may be.

        Raises TokenrelayError SERVICE_UNAVAILABLE when Redis is away; CorruptEntry; LookupError when what follows is no
        longer stored.
        """
        if self.page is not None and not self.page.done():
            return None
        channel = self.channel
        step = self.session.next_step(None if channel is None else channel.feed)
        if step is Step.WAIT:
            if channel is not None and channel.is_lost:
                raise (CorruptEntry if channel.is_unreadable else LookupError)(self.session.stream_id)
            return None
        page, self.page = self.page, None
        if page is not None:
            self.chunks.extend(page.result())
        if self.chunks:
            return self.chunks.popleft()
        if step is Step.TAKE and channel is not None:
            chunk = channel.feed.after(self.session.cursor, self.form)
            return None if chunk is None else frame.taking(self, chunk)
        self._ask(replays.page(self.session, self.form))
        return None

    def let_go(self) -> None:
        """Keep nothing but the cursor: what follows it is read again when the client accepts data again."""
        self.chunks.clear()
        if self.page is not None and self.page.done():
            replay.forget(self.page)
            self.page = None
            self.wake()

    def _ask(self, page: asyncio.Future[list[Chunk]]) -> None:
        """Wait for it without holding up the socket's other streams."""
        self.page = page
        page.add_done_callback(lambda _: self.wake())

    def over(self) -> None:
        """Its stream's end is sent, or nobody here reads it any more."""
        if self._began_here is not None:
            self._began_here.over()


class Frame:
    """What is to be timed in the frame under way on one socket, which may carry events of many streams."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._firsts: list[tuple[RequestTimer, float]] = []  # whose first token is in it, and when that reached us
        self._sampled_at: float | None = None  # when an entry reached us whose way is timed; None: none is

    def taking(self, attachment: Attachment, chunk: Chunk) -> Chunk:
        """The chunk will be in it; gives it back, an end that tells of us in place of one that does not."""
        start, channel = attachment.start, attachment.channel
        if channel is None or (start is None and chunk.cursor & SAMPLED):
            return chunk
        if not chunk.cursor & SAMPLED:
            self._sampled_at = channel.heard_at
        if start is None:
            return chunk
        if start.is_waiting and channel.feed.has_output(chunk.cursor):
            self._firsts.append((start, channel.heard_at))
            if not start.wants_timing:
                attachment.start = None
        return start.told(chunk, channel.feed, attachment.form, channel.heard_at)

    def written(self) -> None:
        """It is in the socket."""
        if not self._firsts and self._sampled_at is None:
            return
        now = time.monotonic()
        firsts, self._firsts = self._firsts, []
        for start, reached_at in firsts:
            start.sent(self._metrics, "ws", reached_at, now)
        if self._sampled_at is not None:
            self._metrics.delivery.labels("ws").observe(now - self._sampled_at)
            self._sampled_at = None
