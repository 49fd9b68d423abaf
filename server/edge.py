"""Everything an edge process has while it runs, opened and closed in order; the typed state that handlers reach."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Final, Protocol

import structlog

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.models import catalogue
from tokenrelay.protocol.runtime.exposition import Exposition, Slot
from tokenrelay.protocol.runtime.lag import Lag
from tokenrelay.protocol.runtime.stores import opening
from tokenrelay.protocol.runtime.stores.base import Store
from tokenrelay.protocol.runtime.supervisor import Supervisor
from tokenrelay.protocol.runtime.tracing import open_tracing
from tokenrelay.server import drain
from tokenrelay.server.access.auth import Auth, Identity
from tokenrelay.server.access.limits import Limits
from tokenrelay.server.live.hub import Hub
from tokenrelay.server.live.replay import Replays
from tokenrelay.server.metrics import Metrics
from tokenrelay.server.settings import Settings
from tokenrelay.server.store import jobs, reaper
from tokenrelay.server.store.log import LogReader
from tokenrelay.server.store.models import Models
from tokenrelay.server.store.redis import MAX_CONNECTIONS
from tokenrelay.server.webhooks.sender import Sender

TICK_S: Final = 1.0
SHED_S: Final = 2
"""After so long one who was refused for overload may ask again."""

CLOSE_S: Final = 2.0

log = structlog.get_logger()


class Connection(Protocol):
    """One client, on whichever transport."""

    can_return: bool
    """Its client has a cursor and loses nothing by going. False for one that waits for a whole answer."""

    def close_soon(self) -> None:
        """A drain or a rotation: send the client elsewhere."""
        ...

    def tick(self, now: float) -> None:
        """A second has passed, by the monotonic clock: is a heartbeat due, does the socket take nothing any more?"""
        ...

    def look(self) -> None:
        """Half a heartbeat's time has passed: is there anybody at the other end?"""
        ...


class Edge:
    """One per process."""

    def __init__(self, settings: Settings, store: Store, slot: Slot | None = None) -> None:
        self.settings = settings
        self.store = store
        self.metrics = Metrics()
        self.exposition = Exposition(self.metrics, self._look, slot)
        self.queue_depth: int | None = None  # None but while somebody asks for the metrics
        self.reads = LogReader(store)
        self.replays = Replays(self.reads, self.metrics.replayed.inc)
        self.jobs = jobs.Jobs(store, settings)
        self.hub = Hub(store, self.reads, self.metrics)
        rows = catalogue.parse(settings.catalogue.read_text(encoding="utf-8"))
        self.models = Models(rows, store, settings.offer_memory_s)
        self.auth = Auth(settings, store)
        self.tracing = open_tracing("tokenrelay-edge")
        self.supervisor = Supervisor(self.metrics.task_failures)
        self.connections: set[Connection] = set()
        self.limits = Limits(settings)
        self.lag = Lag(settings.shed_lag_ms / 1000)
        self._drained_at: float | None = None  # by the monotonic clock, the end of the window; None until it has begun

    def __repr__(self) -> str:
        state = "draining" if self.is_draining else "serving"
        return f"<Edge {state} | {len(self.connections)} connections | {self.hub!r}>"

    def _look(self) -> None:
        """Before its metrics are told."""
        self.metrics.look(
            probe_age_s=self.hub.probe_age_s, readers=self.hub.readers, behind=self.hub.behind,
            trips=self.store.round_trips, queue_depth=self.queue_depth, lag_s=self.lag.seconds,
            unreadable=self.auth.trouble,
        )  # fmt: skip

    @property
    def in_trouble(self) -> dict[str, str]:
        """Long-lived tasks that ended by a fault a moment ago, and what it was."""
        return {**self.hub.supervisor.in_trouble, **self.supervisor.in_trouble}

    @property
    def is_draining(self) -> bool:
        return self._drained_at is not None

    def enter(self, connection: Connection) -> None:
        """A connection has begun. One that was on its way when a drain began goes again soon."""
        self.connections.add(connection)
        if self._drained_at is not None:
            loop = asyncio.get_running_loop()
            loop.call_later(drain.late_s(self._drained_at - time.monotonic()), connection.close_soon)

    def connection(self, identity: Identity) -> contextlib.AbstractContextManager[None]:
        """While whoever asks has one more connection open. Raises TokenrelayError RATE_LIMIT when that is too many."""
        return self.limits.connection(identity.owner, self.auth.limits(identity).connections)

    def refused(
        self, error: TokenrelayError, transport: str, request_id: str = "", identity: Identity | None = None
    ) -> None:
        """Somebody is told no: counted, and logged where the operator wants that. The words may repeat what was sent,
        so only their row of the error table is told."""
        self.metrics.errors.labels(error.code).inc()
        if self.settings.log_refusals:
            owner = None if identity is None else identity.owner
            field = error.fields.get("field")
            log.info(
                "refused", error_code=error.code, status=error.status, transport=transport, request_id=request_id,
                owner=owner, field=field if isinstance(field, str) and len(field) < 100 else None,
            )  # fmt: skip

    def raise_if_draining(self) -> None:
        """Raises TokenrelayError SERVICE_UNAVAILABLE once the edge is on its way out."""
        if self.is_draining:
            raise drain.refusal()

    @property
    def late(self) -> str:
        """`edge` or `worker` while this edge, or every worker, is late for what it has already; else empty. Nothing
        new begins then: those who have an answer keep its pace."""
        if self.lag.is_lasting:
            return "edge"
        return "worker" if self.settings.shed_lag_ms and self.models.are_late else ""

    def shed(self, late: str) -> TokenrelayError:
        """The refusal of one new stream for that, counted."""
        self.metrics.shed.labels(late).inc()
        return TokenrelayError("OVERLOADED", "all there is to serve is busy; try again later", retry_after=SHED_S)

    async def tick(self) -> None:
        """Owned by the process; ends only by being cancelled. One clock for all connections, not a timer each."""
        looked_at = time.monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            for connection in list(self.connections):
                self._say(connection, partial(connection.tick, now))
            self.replays.forget_old(now)
            if now - looked_at >= self.settings.heartbeat_s / 2:
                looked_at = now
                for connection in list(self.connections):
                    self._say(connection, connection.look)

    def _say(self, connection: Connection, word: Callable[[], None]) -> None:
        """One connection that fails at it is sent away; the clock goes on for the others."""
        try:
            word()
        except Exception as error:
            log.error("connection_failed", error=type(error).__name__, exc_info=error)
            self.connections.discard(connection)
            with contextlib.suppress(Exception):
                connection.close_soon()

    async def drain(self) -> None:
        """Not ready any more; refuse what is new; close what is open, spread over the window, so that clients do not
        all come back at once. Returns when all have gone, or when the window is over.

        Who waits for a whole answer has most of the window to get it: it could only ask again.
        """
        window = self.settings.drain_s
        self._drained_at = time.monotonic() + window
        log.info("draining", connections=len(self.connections), window_s=window)
        loop = asyncio.get_running_loop()
        readers = [connection for connection in self.connections if connection.can_return]
        random.shuffle(readers)
        for connection, delay in zip(readers, drain.spread(len(readers), window), strict=True):
            loop.call_later(delay, connection.close_soon)
        for connection in self.connections.difference(readers):
            loop.call_later(window * drain.WINDOW_SHARE, connection.close_soon)
        while self.connections and time.monotonic() < self._drained_at:
            await asyncio.sleep(0.05)
        log.info("drained", left=len(self.connections))


@contextlib.asynccontextmanager
async def open_edge(settings: Settings, slot: Slot | None = None) -> AsyncIterator[Edge]:
    """An edge with its tasks; all of them end with the block. Redis need not be there yet: /readyz says so."""
    store = opening.open_store(settings.redis_url, MAX_CONNECTIONS, settings.redis_tls, settings.redis_partitions)
    await opening.begin(store)
    edge = Edge(settings, store, slot)
    try:
        async with edge.hub.running():
            edge.supervisor.own("store", store.keep_map)
            edge.supervisor.own("clock", edge.tick)
            edge.supervisor.own("lag", edge.lag.watch)
            edge.supervisor.own("reaper", lambda: reaper.keep(edge.jobs, edge.metrics))
            edge.supervisor.own("models", edge.models.keep_fresh)
            edge.supervisor.own("counts", edge.exposition.run)
            if settings.webhook_url:
                edge.supervisor.own("webhooks", Sender(settings, edge.jobs, edge.reads, edge.metrics).run)
            try:
                yield edge
            finally:
                await edge.supervisor.close()
                await edge.replays.close()
                edge.exposition.write()
                await asyncio.to_thread(edge.tracing.close)
    finally:
        # A connection that hangs does not hold up a process that goes.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_S):
                await store.aclose()
