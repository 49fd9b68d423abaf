"""In which partitions this worker looks for work, and when. Claims nothing itself."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Container, Sequence
from typing import Final

import structlog

from tokenrelay.protocol.runtime.outage import Outage
from tokenrelay.protocol.runtime.redis import describe
from tokenrelay.protocol.store import keys, partitions
from tokenrelay.workers.dispatch.homes import homes
from tokenrelay.workers.dispatch.leases import Leases

POLL_S: Final = 0.25
"""All of one server is looked at, and one foreign partition of a cluster, this often without a word."""

HOMES_POLL_S: Final = 1.0
"""A cluster's partitions that are ours, each by its length."""

ALL: Final = 1_000_000
"""To take whatever waits."""

log = structlog.get_logger()


class Partitions:
    """Those that something was heard of, and those that are due to be looked at."""

    def __init__(self, leases: Leases, on_found: Callable[[], None]) -> None:
        """`on_found` is called when a poll has found something."""
        self._leases = leases
        self._on_found = on_found
        self._outage = Outage()
        self._polls: dict[str | None, asyncio.Task[None]] = {}  # by server
        self._store = leases.resources.store
        self._heard: dict[str, int] = {}  # how many to take there, in the order in which words came
        self._polled_at = 0.0  # the homes (one server: all there is), by the monotonic clock
        self._strayed_at = 0.0  # a foreign one
        self._homes: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())  # the workers it was drawn for, and the result

    def __repr__(self) -> str:
        return f"<Partitions {len(self.homes)} homes | {len(self._heard)} heard of>"

    @property
    def homes(self) -> tuple[str, ...]:
        workers = self._leases.workers
        if self._homes[0] != workers:
            self._homes = workers, homes(self._leases.worker_id, workers, self._store.tags)
        return self._homes[1]

    def heard(self, tag: str | None, number: int = ALL) -> None:
        """So many that wait there are ours to take; tag None: somewhere, so all of ours are to be looked at."""
        if tag is None:
            self._polled_at = 0.0
        else:
            self._heard[tag] = self._heard.get(tag, 0) + number

    def poll(self) -> None:
        """Once in a while: what waits at home, and one partition elsewhere."""
        now = time.monotonic()
        if not self._store.names.is_cluster:
            if now - self._polled_at >= POLL_S:
                self._polled_at = now
                self.heard(partitions.ONE_SERVER)
            return
        if now - self._strayed_at >= POLL_S:
            self._strayed_at = now
            ours = set(self.homes)
            foreign = [tag for tag in self._store.tags if tag not in ours]
            if foreign:
                self.heard(random.choice(foreign))  # noqa: S311
        if now - self._polled_at >= HOMES_POLL_S:
            self._polled_at = now
            self._poll_homes()

    def _poll_homes(self) -> None:
        """Each server by itself: one that does not answer hides nothing that waits elsewhere."""
        by_server: dict[str | None, list[str]] = {}
        for tag in self.homes:
            by_server.setdefault(self._store.server_of(tag), []).append(tag)
        for server, tags in by_server.items():
            if server is not None and server not in self._polls:
                task = self._polls[server] = asyncio.create_task(self._poll_server(tags))
                task.add_done_callback(lambda _, server=server: self._polls.pop(server, None))  # type: ignore[misc]

    async def _poll_server(self, tags: Sequence[str]) -> None:
        try:
            asked = [("ZCARD", keys.within(tag, keys.WAITING)) for tag in tags]
            counts = await self._store.ask_many(asked, wait_s=0)
        except Exception as error:
            counts = [error] * len(tags)
        failed = next((count for count in counts if isinstance(count, Exception)), None)
        if failed is None:
            self._outage.over()
        elif self._outage.failed():
            log.warning("homes_not_polled", redis=self._store.server_of(tags[0]), error=describe(failed))
        found = [tag for tag, count in zip(tags, counts, strict=True) if isinstance(count, int) and count]
        for tag in found:
            self.heard(tag)
        if found:
            self._on_found()

    def close(self) -> None:
        for task in self._polls.values():
            task.cancel()

    def take_heard(self, except_of: Container[str | None] = ()) -> dict[str | None, dict[str, int]]:
        """What was heard of, by server and tag, but for these servers."""
        taken: dict[str | None, dict[str, int]] = {}
        for tag in list(self._heard):
            server = self._store.server_of(tag)
            if server not in except_of:
                taken.setdefault(server, {})[tag] = self._heard.pop(tag)
        return taken
