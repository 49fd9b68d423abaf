"""Everything an edge process has while it runs, opened and closed in order; the typed state that handlers reach."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from typing import Final, Protocol

import structlog
from redis.asyncio import Redis

from protocol import catalogue
from protocol.errors import TokenrelayError
from server import jobs, keeper
from server.auth import Auth
from server.hub import Hub
from server.limits import Limits
from server.log import LogReader
from server.metrics import Metrics
from server.models import Models
from server.redis import open_pool
from server.replay import Replays
from server.settings import Settings

TICK_S: Final = 1.0

log = structlog.get_logger()


class Door(Protocol):
    """A connection."""

    def close_soon(self) -> None:
        """A drain: send the client elsewhere."""
        ...

    def tick(self, now: float) -> None:
        """A second has passed, by the monotonic clock: is a heartbeat due, does the socket take nothing any more?"""
        ...


class Edge:
    """One per process."""

    def __init__(self, settings: Settings, redis: Redis) -> None:
        self.settings = settings
        self.redis = redis
        self.metrics = Metrics()
        self.reads = LogReader(redis)
        self.replays = Replays(self.reads)
        self.jobs = jobs.Jobs(redis, settings)
        self.hub = Hub(redis, self.reads, self.metrics)
        self.models = Models(catalogue.parse(settings.catalogue.read_text(encoding="utf-8")), redis)
        self.auth = Auth(settings, redis)
        self.doors: set[Door] = set()
        self.limits = Limits(settings)
        self.is_draining = False
        self.new_stream_id = jobs.new_stream_id

    def __repr__(self) -> str:
        state = "draining" if self.is_draining else "serving"
        return f"<Edge {state} | {len(self.doors)} doors | {self.hub!r}>"

    def must_not_drain(self) -> None:
        """Raises TokenrelayError SERVICE_UNAVAILABLE once the edge is on its way out."""
        if self.is_draining:
            raise TokenrelayError("SERVICE_UNAVAILABLE", "this edge is being replaced; try again", retry_after=1)

    async def tick(self) -> None:
        """Owned by the process; ends only by being cancelled. One clock for all connections, not a timer each."""
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            for door in list(self.doors):
                door.tick(now)
            self.replays.forget_old(now)

    async def drain(self) -> None:
        """Not ready any more; refuse what is new; close what is open, spread over the window, so that clients do not
        all
        come back at once."""
        self.is_draining = True
        window = self.settings.drain_s
        log.info("draining", doors=len(self.doors), window_s=window)
        loop = asyncio.get_running_loop()
        for door in list(self.doors):
            loop.call_later(random.uniform(0, window * 0.8), door.close_soon)  # noqa: S311
        deadline = loop.time() + window
        while self.doors and loop.time() < deadline:
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def open_edge(settings: Settings) -> AsyncIterator[Edge]:
    """An edge with its tasks; all of them end with the block. Redis need not be there yet: /readyz says so."""
    redis = open_pool(settings.redis_url)
    edge = Edge(settings, redis)
    try:
        async with edge.hub.running():
            owned = [
                asyncio.create_task(edge.tick()),
                asyncio.create_task(keeper.keep(edge.jobs, edge.metrics)),
                asyncio.create_task(edge.models.keep_fresh()),
            ]
            try:
                yield edge
            finally:
                for task in owned:
                    task.cancel()
                await asyncio.gather(*owned, return_exceptions=True)
                await edge.replays.close()
    finally:
        with contextlib.suppress(Exception):
            await asyncio.shield(redis.aclose())
