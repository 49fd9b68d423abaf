"""The feeds of all generations that somebody reads here, kept whole from publications and the log. Knows no socket.

Redis ──PUBLISH──▶ LiveFeed ──▶ Feed (one a generation) ──wake──▶ readers (each a cursor)
        XRANGE ───────────────────▲  after a gap, a re-subscribe, a quiet spell, a lost probe
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, Final, Protocol

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.reading.feed import Feed, Offer
from tokenrelay.protocol.reading.session import Session
from tokenrelay.protocol.runtime.live import LiveFeed
from tokenrelay.protocol.runtime.redis import describe
from tokenrelay.protocol.runtime.supervisor import Supervisor
from tokenrelay.protocol.store import keys
from tokenrelay.protocol.store.entries import CorruptEntry, Entry, unpack_publication
from tokenrelay.server.live.presubscribed import Presubscribed
from tokenrelay.server.metrics import Metrics
from tokenrelay.server.store.jobs import new_stream_id
from tokenrelay.server.store.log import LogReader
from tokenrelay.server.store.redis import UNREACHABLE, live_connection

TICK_S: Final = 1.0
QUIET_S: Final = 3.0
"""A feed that heard nothing for this long asks the log; then at twice the pause each time, up to `MOST_QUIET_S`."""

MOST_QUIET_S: Final = 15.0
PROBE_LOST_S: Final = 4.0
"""A probe that has not come back for this long means a live connection that is dead without saying so."""

QUIET_BATCH: Final = 500
REFILL_PAUSE_S: Final = 0.5
MOST_EMPTY_PAGES: Final = 20
"""Ten seconds: longer than a worker takes to come back to a new primary."""

log = structlog.get_logger()


class Reader(Protocol):
    """One who reads: a door's end of a session."""

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
        self.quiet_s = QUIET_S
        self.refill: asyncio.Task[None] | None = None  # None unless a gap is being read
        self.is_lost = False  # the log is no longer there although the feed had not ended
        self.may_be_missing = is_new  # opened before its stream is made: until somebody joins, no metadata is no loss

    def __repr__(self) -> str:
        return f"<Channel {self.feed!r} | {len(self.readers)} readers>"

    def wake(self) -> None:
        for reader in self.readers:
            reader.wake()

    def trim(self, now: float) -> None:
        """Keep what a reader that moves still lacks; one that is stuck reads the log when it moves again."""
        moving = (reader.session.cursor for reader in self.readers if not reader.is_stuck(now))
        self.feed.trim(min(moving, default=self.feed.last))


class Hub:
    """All channels of a process over one live connection."""

    def __init__(self, redis: Redis, reads: LogReader, metrics: Metrics) -> None:
        self._redis = redis
        self._reads = reads
        self._metrics = metrics
        self._channels: dict[bytes, Channel] = {}
        self._probe = keys.probe(secrets.token_hex(8)).encode()
        self.probe_at = -math.inf  # when a probe last came back, by the monotonic clock
        self._connected_at = -math.inf  # when the live connection was made; it gets as long to bring a probe back
        self._probed_at = self.probe_at  # when the last probe left
        self._live = LiveFeed(lambda: live_connection(redis), self._on_message, self._on_connected)
        self._presubscribed = Presubscribed(self._live, new_stream_id)
        self._filling: asyncio.Task[None] | None = None  # None unless spare streams are being subscribed to
        self._tasks: set[asyncio.Task[None]] = set()
        self.supervisor = Supervisor(metrics.task_failures)

    def __repr__(self) -> str:
        readers = sum(len(channel.readers) for channel in self._channels.values())
        gaps = sum(channel.feed.has_gap for channel in self._channels.values())
        return f"<Hub {len(self._channels)} streams | {readers} readers | {gaps} gaps | {self._live!r}>"

    @property
    def probe_age_s(self) -> float:
        """Seconds since the live feed last proved that it works."""
        return time.monotonic() - self.probe_at

    @property
    def readers(self) -> int:
        return sum(len(channel.readers) for channel in self._channels.values())

    @property
    def behind(self) -> int:
        """Readers of live streams whose next entry is not in the shared window any more."""
        return sum(
            reader.session.is_behind(channel.feed) for channel in self._channels.values() for reader in channel.readers
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Hub]:
        """The hub's tasks live inside this block."""
        self._live.want(self._probe)  # an edge may start before its Redis does
        self.supervisor.own("live_feed", self._live.run)
        self.supervisor.own("look_at_logs", self._tick)
        try:
            yield self
        finally:
            await self.supervisor.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def create(self) -> Channel:
        """The channel of a generation that is to be made; its id is the feed's. For the rest as `open`."""
        spare = self._presubscribed.take()
        if self._presubscribed.is_low:
            self._fill_presubscribed()
        if spare is None:
            return await self.open(new_stream_id(), is_new=True)
        channel = Channel(spare, time.monotonic(), is_new=True)
        channel.feed.anchor(0)
        channel.ready.set_result(None)
        channel.coming = 1
        self._channels[channel.name] = channel
        return channel

    async def open(self, stream_id: str, *, is_new: bool = False) -> Channel:
        """The channel of a generation, subscribed and anchored. Every `open` is followed by a `join` or a `leave`.

        `is_new` promises that the generation does not exist yet, so that its log needs no reading.
        Raises TokenrelayError SERVICE_UNAVAILABLE when Redis does not answer.
        """
        name = keys.live(stream_id).encode()
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(stream_id, time.monotonic(), is_new=is_new)
            self._own(self._prepare(channel, is_new))
        channel.coming += 1
        try:
            await asyncio.shield(channel.ready)
        except BaseException:
            self.leave(channel)
            raise
        return channel

    def join(self, channel: Channel, reader: Reader) -> None:
        channel.coming -= 1
        channel.may_be_missing = False
        channel.readers.add(reader)

    def leave(self, channel: Channel, reader: Reader | None = None) -> None:
        """A reader goes, or (None) one that was coming does not come. The last one closes the channel."""
        if reader is None:
            channel.coming -= 1
        else:
            channel.readers.discard(reader)
        if not channel.readers and not channel.coming and self._channels.get(channel.name) is channel:
            self._forget(channel)

    def _forget(self, channel: Channel) -> None:
        del self._channels[channel.name]
        self._live.unsubscribe(channel.name)
        if channel.refill is not None:
            channel.refill.cancel()

    async def _prepare(self, channel: Channel, is_new: bool) -> None:
        """Subscribe, acknowledged, then read: in this order nothing can fall between."""
        try:
            await self._live.subscribe(channel.name)
            last = 0 if is_new else (await self._reads.last_ids([channel.feed.stream_id]))[0] or 0
        except Exception as error:
            self._channels.pop(channel.name, None)
            self._live.unsubscribe(channel.name)
            refusal = TokenrelayError("SERVICE_UNAVAILABLE", "the live feed cannot be reached now", retry_after=2)
            channel.ready.set_exception(refusal)
            channel.ready.exception()  # nobody may be waiting any more
            log.warning("subscribe_failed", stream_id=channel.feed.stream_id, error=describe(error))
            return
        if channel.feed.anchor(last) is Offer.GAP:
            self._start_refill(channel)
        channel.ready.set_result(None)

    # -- what comes in
    # --------------------------------------------------------------------------------------------------

    def _on_message(self, name: bytes, payload: bytes) -> None:
        channel = self._channels.get(name)
        if channel is None:
            if name == self._probe:
                self.probe_at = time.monotonic()
                self._metrics.probe.observe(self.probe_at - self._probed_at)
            return
        try:
            first, entries = unpack_publication(payload)
        except CorruptEntry as error:
            log.error("publication_corrupt", stream_id=channel.feed.stream_id, error=str(error))
            return
        self._take(channel, first, entries)

    def _take(self, channel: Channel, first: int, entries: list[Entry]) -> None:
        offer = channel.feed.offer(first, entries)
        if offer is Offer.NEWS:
            channel.heard_at = time.monotonic()
            channel.quiet_s = QUIET_S
            if channel.feed.needs_trim():
                channel.trim(channel.heard_at)
            channel.wake()
        elif offer is Offer.GAP:
            self._start_refill(channel)

    def _on_connected(self) -> None:
        """What was published while there was no connection is in the logs."""
        self._metrics.live_connects.inc()
        self._connected_at = time.monotonic()
        self._own(self._send_probe(self._connected_at))  # that it is connected proves nothing: does it bring anything?
        anchored = [channel for channel in self._channels.values() if channel.feed.is_anchored]
        self._own(self._ask_logs(anchored))
        self._fill_presubscribed()

    # -- what is fetched
    # ------------------------------------------------------------------------------------------------

    def _start_refill(self, channel: Channel) -> None:
        if channel.refill is None:
            self._metrics.gaps.inc()
            channel.refill = self._own(self._refill(channel))

    async def _refill(self, channel: Channel) -> None:
        """Read the log until the window has all that was heard of.

        A publication that was only late may close the gap meanwhile; then what was read is known already. After a
        failover the log may be short of what we heard until its worker has sent it again: an empty answer gets time.
        """
        feed, empty = channel.feed, 0
        try:
            while feed.has_gap and self._channels.get(channel.name) is channel:
                try:
                    first, entries = await self._reads.page(feed.stream_id, feed.last)
                except TokenrelayError:
                    await asyncio.sleep(REFILL_PAUSE_S)  # Redis is away; readers get heartbeats meanwhile
                    continue
                except CorruptEntry as error:
                    log.error("log_corrupt", stream_id=feed.stream_id, error=str(error))
                    self._lose(channel)
                    return
                if entries and first <= feed.last + 1:
                    empty = 0
                    self._take(channel, first, entries)
                elif entries or empty >= MOST_EMPTY_PAGES:
                    self._lose(channel)
                    return
                else:
                    empty += 1
                    await asyncio.sleep(REFILL_PAUSE_S)
        finally:
            channel.refill = None
            self._metrics.gap_over(feed.has_gap, channel.is_lost)

    def _lose(self, channel: Channel) -> None:
        """What is missing is nowhere any more; the readers end in words."""
        channel.is_lost = True
        channel.wake()

    async def _ask_logs(self, channels: list[Channel]) -> None:
        """One round trip for many: which of these feeds lack something?"""
        for start in range(0, len(channels), QUIET_BATCH):
            batch = channels[start : start + QUIET_BATCH]
            # As it is when we ask: an answer that took long is of a time before the stream was made.
            may_be_missing = [channel.may_be_missing for channel in batch]
            try:
                last_ids = await self._reads.last_ids([channel.feed.stream_id for channel in batch])
            except TokenrelayError:
                return  # asked again at the next quiet spell
            for channel, last_id, was_new in zip(batch, last_ids, may_be_missing, strict=True):
                if last_id is None:
                    if not was_new:
                        self._lose(channel)
                elif channel.feed.heard_of(last_id):
                    self._start_refill(channel)

    # -- what time brings
    # -----------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            for channel in list(self._channels.values()):
                channel.trim(now)
            await self._send_probe(now)
            await self._ask_logs(list(self._quiet(now)))

    def _quiet(self, now: float) -> Iterator[Channel]:
        for channel in self._channels.values():
            feed = channel.feed
            if feed.is_anchored and not feed.has_ended and now - channel.heard_at >= channel.quiet_s:
                channel.heard_at = now
                channel.quiet_s = min(channel.quiet_s * 2, MOST_QUIET_S)
                yield channel

    async def _send_probe(self, now: float) -> None:
        """Published through the commands' connection: a demoted primary looks healthy from the subscribing side."""
        if now - max(self.probe_at, self._connected_at) > PROBE_LOST_S:
            self._live.drop()
        self._probed_at = time.monotonic()
        try:
            await self._redis.publish(self._probe, b"")
        except (*UNREACHABLE, RedisError):
            return  # the probe's age says it

    def _fill_presubscribed(self) -> None:
        if self._filling is None or self._filling.done():
            self._filling = self._own(self._presubscribed.fill())

    def _own(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """For what is over soon. One that fails is logged: what it was to bring, the next look at the logs does."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("hub_task_failed", error=describe(error), exc_info=error)
