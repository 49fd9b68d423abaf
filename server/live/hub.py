"""The feeds of all generations that somebody reads here, kept whole from publications and the log. Knows no socket.

Redis ──PUBLISH──▶ LiveFeed ──▶ Feed (one a generation) ──wake──▶ readers (each a cursor)
        XRANGE ───────────────────▲  after a gap, a re-subscribe, a quiet spell, a lost probe
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final

import structlog
from redis.exceptions import RedisError

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.reading.feed import Offer
from tokenrelay.protocol.runtime.feeds import Feeds
from tokenrelay.protocol.runtime.redis import describe
from tokenrelay.protocol.runtime.stores.base import Store
from tokenrelay.protocol.runtime.supervisor import Supervisor
from tokenrelay.protocol.store import keys, partitions
from tokenrelay.protocol.store.entries import CorruptEntry, Entry, unpack_publication
from tokenrelay.server.live.channel import Channel, Reader
from tokenrelay.server.live.presubscribed import Presubscribed
from tokenrelay.server.live.probe import Probe
from tokenrelay.server.live.refill import refill
from tokenrelay.server.metrics import Metrics
from tokenrelay.server.store.jobs import new_stream_id
from tokenrelay.server.store.log import LogReader
from tokenrelay.server.store.redis import UNREACHABLE

TICK_S: Final = 1.0
QUIET_BATCH: Final = 500

log = structlog.get_logger()


class Hub:
    """All channels of a process over one live connection to each server."""

    def __init__(self, store: Store, reads: LogReader, metrics: Metrics) -> None:
        self._store = store
        self._reads = reads
        self._metrics = metrics
        self._channels: dict[bytes, Channel] = {}
        self._grown: dict[Channel, None] = {}  # by the messages of one read; their readers are woken once for all
        self._probes: dict[str, Probe] = {}  # by server
        self._live = Feeds(store, self._on_message, self._on_connected, self._wake_all)
        self._presubscribed = Presubscribed(self._live, self._new_id, self._may_begin)
        self._asked_of: set[str] = set()  # servers whose logs are being asked
        self._filling: asyncio.Task[None] | None = None  # None unless spare streams are being subscribed to
        self._tasks: set[asyncio.Task[None]] = set()
        self.supervisor = Supervisor(metrics.task_failures)

    def __repr__(self) -> str:
        readers = sum(len(channel.readers) for channel in self._channels.values())
        gaps = sum(channel.feed.has_gap for channel in self._channels.values())
        return f"<Hub {len(self._channels)} streams | {readers} readers | {gaps} gaps | {self._live!r}>"

    @property
    def probe_age_s(self) -> float:
        """Seconds since the live feed last proved that it works; of several, the one that is the longest ago."""
        return max(self.probe_ages.values(), default=math.inf)

    @property
    def probe_ages(self) -> dict[str, float]:
        """The same of each server."""
        now = time.monotonic()
        return {server: now - probe.came_at for server, probe in self._probes.items()}

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
        self._set_probes()  # an edge may start before its Redis does
        self._store.on_change(self._set_probes)
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
            return await self.open(self._new_id(), is_new=True)
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
            for probe in self._probes.values():
                if name == probe.name:
                    self._metrics.probe.observe(probe.came(time.monotonic()))
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

    def _on_connected(self, server: str, names: list[bytes] | None) -> None:
        """What was published while there was no connection, or while a slot was on its way, is in the logs."""
        if names is None:
            self._metrics.live_connects.inc()
            if (probe := self._probes.get(server)) is not None:
                probe.connected(time.monotonic())
                self._own(self._send_probe(probe))  # connected proves nothing: does it bring anything?
            self._fill_presubscribed()
            channels = [each for each in self._channels.values() if self._store.server_of_key(each.name) == server]
        else:
            channels = [self._channels[name] for name in names if name in self._channels]
        self._own(self._ask_logs([channel for channel in channels if channel.feed.is_anchored]))

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
            for server, probe in list(self._probes.items()):
                if probe.is_lost(now):
                    self._live.drop(server)
                if not probe.is_under_way:
                    self._own(self._send_probe(probe))
            self._ask_quiet_logs(now)

    def _ask_quiet_logs(self, now: float) -> None:
        """Of each server apart: one that does not answer holds up no other's streams."""
        quiet: dict[str, list[Channel]] = {}
        for channel in self._channels.values():
            server = self._store.server_of_key(channel.name) or ""
            if server not in self._asked_of and channel.is_quiet(now):
                quiet.setdefault(server, []).append(channel)
        for server, channels in quiet.items():
            self._own(self._ask_logs_of(server, channels))

    async def _ask_logs_of(self, server: str, channels: list[Channel]) -> None:
        self._asked_of.add(server)
        try:
            await self._ask_logs(channels)
        finally:
            self._asked_of.discard(server)

    async def _send_probe(self, probe: Probe) -> None:
        """Published through the commands' connection: a demoted primary looks healthy from the subscribing side."""
        probe.is_under_way = True
        probe.sent(time.monotonic())
        try:
            await self._store.publish(probe.name, b"")
        except (*UNREACHABLE, RedisError):
            return  # the probe's age says it
        finally:
            probe.is_under_way = False

    def _set_probes(self) -> None:
        """One for each server, through a partition that it has now."""
        first = {
            server: tag for tag in reversed(self._store.tags) if (server := self._store.server_of(tag)) is not None
        }
        for server in [each for each in self._probes if each not in first]:
            self._live.unsubscribe(self._probes.pop(server).name)
        for server, tag in first.items():
            probe = self._probes.get(server)
            if probe is None or self._store.server_of(probe.tag) != server:
                if probe is not None:
                    self._live.unsubscribe(probe.name)
                self._probes[server] = Probe(tag)
                self._probes[server].connected(time.monotonic())
                self._live.want(self._probes[server].name)

    # -- where new streams begin ---------------------------------------------------------------------------------------

    def _new_id(self) -> str:
        """In a partition whose server brings what is published, as far as is known; in any, while none does."""
        tags = self._store.tags
        if len(tags) > 1:
            open_servers = self._open_servers()
            tags = tuple(tag for tag in tags if self._store.server_of(tag) in open_servers) or tags
        return new_stream_id(random.choice(tags))  # noqa: S311  it spreads streams

    def _may_begin(self, stream_id: str) -> bool:
        if len(self._store.tags) == 1:
            return True
        open_servers = self._open_servers()
        return not open_servers or self._store.server_of(partitions.tag_of(stream_id)) in open_servers

    def _open_servers(self) -> set[str]:
        """Those that are not known to be silent. A server that was met just now is taken for well: else the first
        streams of an edge would all lie where it was connected first."""
        now = time.monotonic()
        return {server for server, probe in self._probes.items() if not probe.is_lost(now)}

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
