"""The feeds of all generations that somebody reads here, kept whole from publications and the log. Knows no socket.

Redis ──PUBLISH──▶ LiveFeed ──▶ Feed (one a generation) ──wake──▶ readers (each a cursor)
        XRANGE ───────────────────▲  after a gap, a re-subscribe, a quiet spell, a lost probe
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.reading.feed import Offer
from tokenrelay.protocol.runtime.live_feed import LiveFeed
from tokenrelay.protocol.runtime.redis import describe
from tokenrelay.protocol.runtime.supervisor import Supervisor
from tokenrelay.protocol.store import keys
from tokenrelay.protocol.store.entries import CorruptEntry, Entry, unpack_publication
from tokenrelay.server.live.channel import Channel, Reader
from tokenrelay.server.live.presubscribed import Presubscribed
from tokenrelay.server.live.probe import Probe
from tokenrelay.server.live.refill import refill
from tokenrelay.server.metrics import Metrics
from tokenrelay.server.store.jobs import new_stream_id
from tokenrelay.server.store.log import LogReader
from tokenrelay.server.store.redis import UNREACHABLE, live_connection

TICK_S: Final = 1.0
QUIET_BATCH: Final = 500

log = structlog.get_logger()


class Hub:
    """All channels of a process over one live connection."""

    def __init__(self, redis: Redis, reads: LogReader, metrics: Metrics) -> None:
        self._redis = redis
        self._reads = reads
        self._metrics = metrics
        self._channels: dict[bytes, Channel] = {}
        self._grown: dict[Channel, None] = {}  # by the messages of one read; their readers are woken once for all
        self._probe = Probe()
        self._live = LiveFeed(lambda: live_connection(redis), self._on_message, self._on_connected, self._wake_all)
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
        return time.monotonic() - self._probe.came_at

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
        self._live.want(self._probe.name)  # an edge may start before its Redis does
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
            if name == self._probe.name:
                self._metrics.probe.observe(self._probe.came(time.monotonic()))
            return
        try:
            first, entries = unpack_publication(payload)
        except CorruptEntry as error:
            log.error("publication_corrupt", stream_id=channel.feed.stream_id, error=str(error))
            return
        if self._offer(channel, first, entries):
            self._grown[channel] = None

    def _wake_all(self) -> None:
        """One write to a connection, however many publications came for it in one read."""
        grown, self._grown = self._grown, {}
        for channel in grown:
            try:
                channel.wake()
            except Exception as error:  # it costs its own stream, not all that are read over this connection
                log.error("wake_failed", stream_id=channel.feed.stream_id, exc_info=error)

    def _take(self, channel: Channel, first: int, entries: list[Entry]) -> None:
        if self._offer(channel, first, entries):
            channel.wake()

    def _offer(self, channel: Channel, first: int, entries: list[Entry]) -> bool:
        """True when the window grew: its readers are to be woken."""
        offer = channel.feed.offer(first, entries)
        if offer is Offer.NEWS:
            channel.heard(time.monotonic())
            if channel.feed.needs_trim():
                channel.trim(channel.heard_at)
            return True
        if offer is Offer.GAP:
            self._start_refill(channel)
        return False

    def _on_connected(self) -> None:
        """What was published while there was no connection is in the logs."""
        self._metrics.live_connects.inc()
        now = time.monotonic()
        self._probe.connected(now)
        self._own(self._send_probe(now))  # that it is connected proves nothing: does it bring anything?
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
        try:
            await refill(
                channel, self._reads,
                take=lambda first, entries: self._take(channel, first, entries),
                is_open=lambda: self._channels.get(channel.name) is channel,
            )  # fmt: skip
        finally:
            channel.refill = None
            self._metrics.gap_over(channel.feed.has_gap, channel.is_lost)

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
                        channel.lose()
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
            await self._ask_logs([channel for channel in self._channels.values() if channel.is_quiet(now)])

    async def _send_probe(self, now: float) -> None:
        """Published through the commands' connection: a demoted primary looks healthy from the subscribing side."""
        if self._probe.is_lost(now):
            self._live.drop()
        self._probe.sent(time.monotonic())
        try:
            await self._redis.publish(self._probe.name, b"")
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
