"""Writes all logs of a process: a lane to each server, each log in the lane of the server that has its partition.

Logs that have ended are kept for a while. A replica that becomes primary may lack what its predecessor acknowledged;
whatever a failover has cost an ended log is then sent again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from tokenrelay.protocol.runtime.stores.base import Store
from tokenrelay.protocol.store import scripts
from tokenrelay.workers.append.lane import Lane
from tokenrelay.workers.append.log import Log
from tokenrelay.workers.metrics import Metrics
from tokenrelay.workers.redis import AWAY

RELEASE_S: Final = 1.0
KEPT_S: Final = 10.0
"""Ended logs are kept for this long: longer than a failover takes."""

WATCH_S: Final = 1.0
MOST_KEPT: Final = 5_000
MOST_KEPT_BYTES: Final = 64 * 1024 * 1024


class Writer:
    """`run` belongs to the process."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._lanes: dict[str, Lane] = {}
        self._lane_of: dict[str, Lane] = {}  # by tag
        self._unplaced: dict[Log, None] = {}  # marked while no server had their partition, or sent away by one
        self._ended: deque[tuple[float, Log]] = deque()  # with the time of their end, by the loop's clock
        self._ended_bytes = 0
        self._watching: asyncio.TimerHandle | None = None  # None while no end is kept
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None  # None unless it runs
        store.on_change(self._changed)
        self._changed()

    def __repr__(self) -> str:
        return f"<Writer {self.dirty} dirty | {self.entries} entries in {self.trips} round trips>"

    @property
    def dirty(self) -> int:
        """Logs that wait."""
        return len(self._unplaced) + sum(lane.dirty for lane in self._lanes.values())

    @property
    def connects(self) -> int:
        return sum(lane.connects for lane in self._lanes.values())

    @property
    def trips(self) -> int:
        return sum(lane.trips for lane in self._lanes.values())

    @property
    def entries(self) -> int:
        return sum(lane.entries for lane in self._lanes.values())

    def mark(self, item: Log) -> None:
        """This log has something to write. Called for every entry."""
        lane = self._lane_of.get(item.tag)
        if lane is not None and item not in self._unplaced:
            lane.mark(item)
        elif item not in self._unplaced:
            self._unplaced[item] = None
            self._store.look_again()

    async def flushed(self, timeout_s: float) -> bool:
        """True once Redis has everything; False when that took longer."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.dirty:
                    waits = [lane.idle.wait() for lane in self._lanes.values()]
                    await asyncio.gather(*waits)
                    if self._unplaced:
                        await asyncio.sleep(0.02)
        except TimeoutError:
            return False
        return True

    async def release(self, item: Log) -> bool:
        """Requeue a generation with no output yet, and close its log. False: it has output, or Redis is away."""
        if item.told_id is not None:
            return False
        await self.flushed(RELEASE_S)
        try:
            released = await self._store.run(scripts.RELEASE, scripts.release(item.stream_id, item.epoch))
        except AWAY:
            return False
        item.is_closed = bool(released)
        return item.is_closed

    async def run(self) -> None:
        """Owned by the process; ends only by being cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for server in self._lanes:
                    self._start(server)
                await asyncio.Event().wait()
        finally:
            self._group = None
            self._tasks.clear()

    # -- logs that have ended ------------------------------------------------------------------------------------------

    def ended(self, item: Log) -> None:
        """Its end is acknowledged."""
        self._ended.append((asyncio.get_running_loop().time(), item))
        self._ended_bytes += item.kept_bytes
        self._drop_old()
        self._watch_soon()

    def _drop_old(self) -> None:
        since = asyncio.get_running_loop().time() - KEPT_S
        while self._ended and (
            self._ended[0][0] < since or len(self._ended) > MOST_KEPT or self._ended_bytes > MOST_KEPT_BYTES
        ):
            self._ended_bytes -= self._ended.popleft()[1].kept_bytes

    def _watch_soon(self) -> None:
        if self._watching is None and self._ended:
            self._watching = asyncio.get_running_loop().call_later(WATCH_S, self._watch)

    def _watch(self) -> None:
        """While ends are kept, connections that nothing is written to are looked at too."""
        self._watching = None
        self._drop_old()
        for lane in {lane for _, item in self._ended if (lane := self._lane_of.get(item.tag)) is not None}:
            lane.probe()
        self._watch_soon()

    def _look_at_ends(self, lane: Lane) -> None:
        """A connection, perhaps to another primary than before: does it have the ends that were acknowledged?"""
        if lane.connects <= 1 and not self._store.names.is_cluster:
            return
        self._drop_old()
        ended, self._ended, self._ended_bytes = self._ended, deque(), 0
        for at, item in ended:
            if self._lane_of.get(item.tag) is lane and item.doubt_end():
                self.mark(item)  # it comes back when its end is acknowledged again
            else:
                self._ended.append((at, item))
                self._ended_bytes += item.kept_bytes

    # -- which lane ----------------------------------------------------------------------------------------------------

    def _changed(self) -> None:
        """Partitions are elsewhere than before."""
        servers = self._store.servers()
        for place in servers:
            if place not in self._lanes:
                self._lanes[place] = Lane(self._store, place, self._metrics, self._sent_away, self._look_at_ends)
                self._start(place)
        before = self._lane_of
        self._lane_of = {
            tag: self._lanes[server]
            for tag in self._store.tags
            if (server := self._store.server_of(tag)) is not None and server in self._lanes
        }
        for lane in self._lanes.values():
            for item in lane.take_dirty(lambda item, lane=lane: self._lane_of.get(item.tag) is not lane):  # type: ignore[misc]
                self.mark(item)
        for item in list(self._unplaced):
            if item.tag in self._lane_of:
                self._mark_again(item)
        for lane in {lane for tag, lane in self._lane_of.items() if before.get(tag, lane) is not lane}:
            self._look_at_ends(lane)
        for place in [each for each in self._lanes if each not in servers]:
            del self._lanes[place]
            if (task := self._tasks.pop(place, None)) is not None:
                task.cancel()

    def _start(self, server: str) -> None:
        if self._group is not None and server not in self._tasks:
            self._tasks[server] = self._group.create_task(self._lanes[server].run())

    def _sent_away(self, item: Log, pause_s: float) -> None:
        """The server does not write it now: soon again, wherever its partition is by then."""
        self._unplaced[item] = None
        asyncio.get_running_loop().call_later(max(pause_s, 0.001), self._mark_again, item)

    def _mark_again(self, item: Log) -> None:
        if item in self._unplaced:
            if item.tag in self._lane_of:
                del self._unplaced[item]
                self.mark(item)
            else:
                self._store.look_again()
