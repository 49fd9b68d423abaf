"""Everything a worker process has while it runs: generations, writer, providers; and the pulse that keeps leases
alive."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Iterator
from typing import Any, Final

import structlog
from arq import ArqRedis

from tokenrelay.protocol.models.catalogue import Catalogue
from tokenrelay.protocol.runtime.redis import describe, own_connection, pool_place, round_trips, run
from tokenrelay.protocol.runtime.tracing import Tracing
from tokenrelay.protocol.store import keys, scripts, worker_registry
from tokenrelay.protocol.store.scripts import Claim
from tokenrelay.protocol.store.worker_registry import OFFER_MS, Offer
from tokenrelay.workers.append.writer import Writer
from tokenrelay.workers.circuit import SYNC_S, Health
from tokenrelay.workers.generation.generation import Generation
from tokenrelay.workers.metrics import Metrics
from tokenrelay.workers.providers.base import Provider
from tokenrelay.workers.redis import AWAY
from tokenrelay.workers.settings import Settings
from tokenrelay.workers.tools.registry import Toolbox

PULSE_S: Final = 0.5
RENEW_TIMEOUT_S: Final = 2.0

log = structlog.get_logger()


class House:
    """One per process. `providers` by source (a dialect, or a server of the catalogue); `lacks` says of the other
    sources why not."""

    def __init__(
        self,
        settings: Settings,
        redis: ArqRedis,
        catalogue: Catalogue,
        providers: dict[str, Provider],
        lacks: dict[str, str],
        tools: Toolbox | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.settings = settings
        self.redis = redis
        self.catalogue = catalogue
        self.providers = providers
        self.lacks = lacks
        self.tools = tools or Toolbox()
        self.worker_id = secrets.token_hex(6)
        self.health = Health(catalogue.routing.health, self.worker_id, settings.first_token_timeout_s)
        self.metrics = Metrics()
        self.tracing = tracing or Tracing()
        self.writer = Writer(lambda: own_connection(redis), self.metrics)
        self.claims: dict[str, Claim] = {}  # taken from the queue, not begun yet
        self.taken_at: dict[str, float] = {}  # when each of them was, by the monotonic clock
        self.generations: dict[str, Generation] = {}
        self.is_leaving = False
        self._renewed_at = 0.0  # by the monotonic clock
        self._synced_at = 0.0  # the same

    def __repr__(self) -> str:
        return f"<House {self.worker_id} | {len(self.generations)} generations | {self.writer!r}>"

    @property
    def round_trips(self) -> int:
        """How often Redis was asked, appends not counted."""
        return round_trips(self.redis)

    async def generate(self, ctx: dict[Any, Any], stream_id: str) -> None:
        """arq's one job. Its claim was made by the dispatcher; without one it is not ours to run."""
        claim = self.claims.pop(stream_id, None)
        if claim is None:
            log.warning("job_without_claim", stream_id=stream_id, job_try=ctx.get("job_try"))
            return
        now = time.monotonic()
        generation = Generation(self, claim, now, self.taken_at.pop(stream_id, now))
        # Every line that is logged below this task has them, down to the call of the maker.
        structlog.contextvars.bind_contextvars(stream_id=stream_id, request_id=generation.context.request_id)
        self.generations[stream_id] = generation
        try:
            # A task of its own: stopping it must not look like arq's own cancelling.
            await asyncio.create_task(generation.run())
            await generation.settled()
        finally:
            del self.generations[stream_id]

    def stop(self, stream_id: str) -> None:
        """A cancel was heard of; the fact itself is in Redis."""
        generation = self.generations.get(stream_id)
        if generation is not None:
            generation.log_cancelled()

    async def release(self, generation: Generation) -> bool:
        """Hand a generation back to the queue. False when it may not be, or Redis is away."""
        await self.writer.flushed(1.0)
        try:
            arguments = scripts.release(generation.stream_id, generation.epoch)
            return bool(await run(self.redis, scripts.RELEASE, arguments))
        except AWAY:
            return False

    # -- the pulse
    # -------------------------------------------------------------------------------------------------------

    async def pulse(self) -> None:
        """Owned by the process; ends only by being cancelled."""
        while True:
            now = time.monotonic()
            for generation in list(self.generations.values()):
                self._check(generation, now)
            if now - self._renewed_at >= scripts.RENEW_EVERY_S:
                try:
                    # One that is half open must not cost the lease: give it up while there is time for another.
                    async with asyncio.timeout(RENEW_TIMEOUT_S):
                        await self.renew()
                    self._renewed_at = now
                except Exception as error:
                    log.warning("renew_failed", redis=pool_place(self.redis), error=describe(error))
            if now - self._synced_at >= SYNC_S:
                self._synced_at = now
                try:
                    await self.health.sync(self.redis)
                except Exception as error:
                    log.warning("health_sync_failed", redis=pool_place(self.redis), error=describe(error))
            await asyncio.sleep(PULSE_S)

    def _check(self, generation: Generation, now: float) -> None:
        """One that fails at it costs no other its lease."""
        try:
            generation.check(now)
        except Exception:
            log.exception("check_failed", stream_id=generation.stream_id)

    async def renew(self) -> None:
        """Say that we live: leases, time to live of what is being written, what we offer. Raises what is in `AWAY`."""
        for batch in self._held():
            arguments = scripts.renew(scripts.LEASE_MS, self.settings.retention_ms, batch)
            reply = scripts.renew_reply(await run(self.redis, scripts.RENEW, arguments))
            for stream_id, _ in batch:
                generation = self.generations.get(stream_id)
                if generation is None or generation.log.has_end:
                    continue  # its end is on the way: what is said of it now may be said because of that
                generation.heard(stream_id in reply.heard)
                if stream_id in reply.lost:
                    generation.log_lost()
                elif stream_id in reply.cancelled:
                    generation.log_cancelled()
        await self._announce()

    def _held(self) -> Iterator[list[tuple[str, int]]]:
        held = [(stream_id, claim.epoch) for stream_id, claim in self.claims.items()]
        held += [(item.stream_id, item.epoch) for item in self.generations.values() if not item.log.is_closed]
        for start in itertools.count(0, scripts.MAX_BATCH_ENTRIES):
            batch = held[start : start + scripts.MAX_BATCH_ENTRIES]
            if not batch:
                return
            yield batch

    async def _announce(self) -> None:
        """What this worker offers, and away with what dead ones offered."""
        pipe = self.redis.pipeline(transaction=False)
        pipe.time()
        pipe.hgetall(keys.WORKERS)
        (seconds, micros), others = await pipe.execute()
        now_ms = seconds * 1000 + micros // 1000
        dead = [
            name
            for name, raw in others.items()
            if (offer := worker_registry.unpack(raw)) is None or offer.until_ms < now_ms
        ]
        mine = Offer(
            until_ms=now_ms + OFFER_MS,
            dialects=() if self.is_leaving else tuple(self.providers),
            lacks=self.lacks,
            running=len(self.generations),
            max_jobs=self.settings.max_jobs,
        )
        pipe = self.redis.pipeline(transaction=False)
        if dead:
            pipe.hdel(keys.WORKERS, *dead)
        pipe.execute_command("HSET", keys.WORKERS, self.worker_id, worker_registry.pack(mine))
        pipe.pexpire(keys.WORKERS, OFFER_MS)
        await pipe.execute()

    async def withdraw(self) -> None:
        """The offer is void from now on. Raises what is in `AWAY`."""
        await self.redis.hdel(keys.WORKERS, self.worker_id)  # type: ignore[misc]
