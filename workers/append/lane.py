"""The group commit to one server: one connection, one round trip at a time, in it whatever all generations whose logs
are there wrote meanwhile. Knows no model.

A stream's first words leave at once, and so does everything when the last trip began a while ago. Under load trips
begin 2 to 10 ms apart (`pace.py`) and batches grow: a trip of one entry costs the worker, Redis and the edge a wake-up
and a system call each, a trip of twenty costs the same once. redis-py costs about 15 µs a command even in a pipeline;
packing with hiredis and reading the connection's StreamReader costs about 3 (redis-py is pinned below 6).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable
from typing import Any, Final

import hiredis
import structlog
from redis.asyncio.connection import AbstractConnection

from tokenrelay.protocol.runtime.outage import is_told
from tokenrelay.protocol.runtime.redis import code_of, describe, is_about_the_data, place_of, wire_of
from tokenrelay.protocol.runtime.stores.base import Store
from tokenrelay.protocol.store import scripts
from tokenrelay.workers.append.log import Log
from tokenrelay.workers.append.pace import Pace
from tokenrelay.workers.metrics import Metrics
from tokenrelay.workers.redis import AWAY

READ_BYTES: Final = 64 * 1024
REPLY_TIMEOUT_S: Final = 5.0
CLUSTER_REPLY_TIMEOUT_S: Final = 1.5
"""In a cluster a primary that is silent for longer is probably being replaced."""

APPENDS: Final = (scripts.APPEND, scripts.APPEND_MORE)
MAX_LOGS_A_TRIP: Final = 256
MAX_BYTES_A_TRIP: Final = 1024 * 1024

log = structlog.get_logger()


class Refused(Exception):
    """Redis answers, but will not write now (out of memory, read only, loading)."""


class Lane:
    """Owns the connection that appends to this server take. `on_away(log, pause_s)`: its partition is not here, or not
    now, and it has left the line; `on_connected(lane)`: there is a connection, perhaps to another primary."""

    def __init__(
        self,
        store: Store,
        server: str,
        metrics: Metrics,
        on_away: Callable[[Log, float], None],
        on_connected: Callable[[Lane], None],
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._on_away = on_away
        self._on_connected = on_connected
        self._texts = [each.cluster_text if store.names.is_cluster else each.text for each in APPENDS]
        self._reply_s = CLUSTER_REPLY_TIMEOUT_S if store.names.is_cluster else REPLY_TIMEOUT_S
        self._must_load = False
        self._must_ask = False
        self._is_urgent = False  # a log that somebody waits for is among those that wait
        self.server = server
        self._dirty: dict[Log, None] = {}  # in the order in which they became so
        self._loop: asyncio.AbstractEventLoop | None = None  # None before it runs
        self._go = asyncio.Event()  # the next trip may begin
        self._timer: asyncio.TimerHandle | None = None  # None unless `_go` is set later
        self._began_at = 0.0  # the last trip, by the loop's clock
        self._pace = Pace()
        self.idle = asyncio.Event()
        self.idle.set()
        self.connects = 0
        self.trips = 0
        self.entries = 0

    def __repr__(self) -> str:
        return f"<Lane {self.server} {len(self._dirty)} dirty | {self.entries} entries in {self.trips} round trips>"

    @property
    def dirty(self) -> int:
        """Logs that wait."""
        return len(self._dirty)

    def mark(self, item: Log) -> None:
        """This log has something to write. Called for every entry."""
        if item.is_awaited:
            self._is_urgent = True
            self._go.set()
        elif item in self._dirty:
            return  # it waits for the next trip already
        else:
            self._go_in_time()
        self._dirty[item] = None
        self.idle.clear()

    def probe(self) -> None:
        """Does the server still answer here? A connection that is not used is not seen to be cut."""
        self._must_ask = True
        self._go.set()

    def take_dirty(self, is_gone: Callable[[Log], bool]) -> list[Log]:
        """Those that are another lane's now."""
        gone = [item for item in self._dirty if is_gone(item)]
        for item in gone:
            del self._dirty[item]
        if not self._dirty:
            self.idle.set()
        return gone

    def _go_in_time(self) -> None:
        if self._timer is not None:
            return
        loop = self._loop or asyncio.get_running_loop()
        due = self._began_at + self._pace.pause_s
        if loop.time() >= due:
            self._go.set()
        else:
            self._timer = loop.call_at(due, self._go_now)

    def _now(self) -> float:
        return (self._loop or asyncio.get_running_loop()).time()

    def _go_now(self) -> None:
        self._timer = None
        self._go.set()

    async def run(self) -> None:
        """Owned by the writer; ends only by being cancelled."""
        self._loop = asyncio.get_running_loop()  # asking for it costs a system call (Python 3.11)
        failures = 0
        while True:
            connection = self._store.connection(self.server)
            try:
                await connection.connect()  # type: ignore[no-untyped-call]
                wire = _Wire(connection, self._reply_s)
                await self._load(wire)
                failures = 0
                self.connects += 1
                self._metrics.writer_connects.inc()
                self._on_connected(self)
                self._go.set()
                while True:
                    await self._go.wait()
                    if self._is_urgent:
                        self._is_urgent = False
                        await asyncio.sleep(0)  # who writes in this turn goes along: `started` and a first token
                    self._go.clear()
                    self._began_at = self._loop.time()
                    await self._write(wire)
            except (*AWAY, TimeoutError, hiredis.HiredisError, Refused) as error:
                failures += 1
                self._store.look_again()
                if is_told(failures):
                    place = place_of(connection)
                    log.warning("writer_lost_redis", redis=place, error=_kind(error), dirty=len(self._dirty))
            finally:
                with contextlib.suppress(Exception):
                    await asyncio.shield(connection.disconnect(nowait=True))
            await asyncio.sleep(random.uniform(0.02, min(1.0, 0.05 * 2**failures)))  # noqa: S311

    async def _load(self, wire: _Wire) -> None:
        for loaded in await wire.ask([("SCRIPT", "LOAD", text) for text in self._texts]):
            if isinstance(loaded, hiredis.ReplyError):
                raise Refused(describe(loaded))
        self._must_load = False

    async def _write(self, wire: _Wire) -> None:
        """One round trip. What fails stays dirty and is sent again: the script knows what it has."""
        if self._must_load:
            await self._load(wire)
        if self._must_ask:
            self._must_ask = False
            await wire.ask([("PING",)])
        trip = self._next_trip()
        if trip:
            await self._send(wire, trip)
        self._line_up(trip)

    def _next_trip(self) -> dict[Log, tuple[Any, ...]]:
        """The command of each log that goes along, those that waited longest first."""
        trip: dict[Log, tuple[Any, ...]] = {}
        size, had, is_whole = 0, self.entries, True
        for item in self._dirty:
            if not item.is_dirty:
                continue
            before = item.unacked_bytes
            arguments, count = item.next_batch()
            if item.tag:
                which = scripts.APPEND if arguments[0] == scripts.APPEND.sha else scripts.APPEND_MORE
                arguments = which.in_cluster(arguments, item.tag)
            trip[item] = ("EVALSHA", *arguments)
            self.entries += count
            size += min(before, scripts.MAX_BATCH_BYTES)
            if len(trip) >= MAX_LOGS_A_TRIP or size >= MAX_BYTES_A_TRIP:
                is_whole = False
                break
        self._pace.trip(self._began_at, self.entries - had, is_whole=is_whole)
        if trip:
            self._metrics.batch.observe(self.entries - had)
        return trip

    async def _send(self, wire: _Wire, trip: dict[Log, tuple[Any, ...]]) -> None:
        self.trips += 1
        refused = ""
        for item, reply in zip(trip, await wire.ask(list(trip.values())), strict=True):
            if not isinstance(reply, hiredis.ReplyError):
                item.take_reply(scripts.append_reply(reply))
            elif code_of(reply) == "NOSCRIPT":
                self._must_load = True
                self._go.set()
            elif (pause_s := self._store.explain(reply, item.tag)) is not None:
                if item in self._dirty:  # else what was explained has brought it to another lane
                    del self._dirty[item]
                    self._on_away(item, pause_s)  # that costs this log, and no other
            elif is_about_the_data(reply):
                log.error("log_unwritable", stream_id=item.stream_id, error=describe(reply))
                item.lose()
            else:
                refused = describe(reply)  # it stays dirty; the others' replies count all the same
        self._metrics.trip_seconds.observe(self._now() - self._began_at)
        if refused:
            raise Refused(refused)

    def _line_up(self, written: Iterable[Log]) -> None:
        """Who has nothing more leaves the line, who was written and has more goes to its end."""
        for item in [item for item in self._dirty if not item.is_dirty]:
            del self._dirty[item]
        for item in written:
            if item in self._dirty:
                del self._dirty[item]
                self._dirty[item] = None
        if self._dirty:
            self._go_in_time()
        else:
            self.idle.set()


class _Wire:
    """Commands out in one write, replies in, on a connection that redis-py has opened and authenticated."""

    def __init__(self, connection: AbstractConnection, timeout_s: float = REPLY_TIMEOUT_S) -> None:
        self._reader, self._writer = wire_of(connection)
        self._parser = hiredis.Reader()
        self._timeout_s = timeout_s

    async def ask(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """The replies, in order, error replies among them. Raises TimeoutError, ConnectionError."""
        packed = b"".join([hiredis.pack_command(command) for command in commands])
        try:
            self._writer.write(packed)
        except RuntimeError as error:  # uvloop's word for a connection that was reset while nobody read from it
            raise ConnectionError("closed by Redis") from error
        replies: list[Any] = []
        async with asyncio.timeout(self._timeout_s):
            await self._writer.drain()
            while len(replies) < len(commands):
                reply = self._parser.gets()
                if reply is False:
                    data = await self._reader.read(READ_BYTES)
                    if not data:
                        raise ConnectionError("closed by Redis")
                    self._parser.feed(data)
                else:
                    replies.append(reply)
        return replies


def _kind(error: BaseException) -> str:
    """For the log: Redis's own words for a refusal."""
    return str(error) if isinstance(error, Refused) else describe(error)
