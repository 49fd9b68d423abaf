"""The leases this process holds: claims not begun, generations under way, what it offers; renews all of them.

Knows no queue (`arq_worker`) and no token (`generation`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from typing import Any, Final, NamedTuple

import structlog

from tokenrelay.protocol.runtime.lag import Lag
from tokenrelay.protocol.runtime.outage import Outage
from tokenrelay.protocol.runtime.redis import describe
from tokenrelay.protocol.store import keys, partitions, scripts, worker_registry
from tokenrelay.protocol.store.scripts import Claim
from tokenrelay.protocol.store.worker_registry import OFFER_MS, Offer
from tokenrelay.workers.append.log import News
from tokenrelay.workers.circuit import SYNC_S
from tokenrelay.workers.dispatch.turns import Turns
from tokenrelay.workers.generation.generation import Generation
from tokenrelay.workers.generation.resources import Resources
from tokenrelay.workers.metrics import Figures
from tokenrelay.workers.redis import AWAY

TICK_S: Final = 0.5
RENEW_TIMEOUT_S: Final = 2.0
LEAVE_TIMEOUT_S: Final = 1.0

log = structlog.get_logger()


class Held(NamedTuple):
    """A claim, and when it was taken, by the monotonic clock."""

    claim: Claim
    taken_at: float


class Leases:
    """One per process. `lacks` says of the sources it does not offer why not."""

    def __init__(self, resources: Resources, worker_id: str, lacks: dict[str, str]) -> None:
        self.resources = resources
        self.worker_id = worker_id
        self.claims: dict[tuple[str, int], Held] = {}  # by stream and epoch: taken from the queue, not begun yet
        self.generations: dict[str, Generation] = {}  # by stream: the newest attempt at it
        self.workers: tuple[str, ...] = (worker_id,)  # all that live, as of the last renewal
        self.turns = Turns(worker_id)
        self.is_leaving = False
        self.lag = Lag(resources.settings.shed_lag_ms / 1000)
        self._lacks = lacks  # changes while a handler is written
        self._renewed_at = 0.0  # by the monotonic clock
        self._synced_at = 0.0  # the same

    def __repr__(self) -> str:
        return f"<Leases {self.worker_id} | {len(self.generations)} generations | {self.resources.writer!r}>"

    def hold(self, held: Held) -> None:
        """Keep the lease of a claim until it is run."""
        self.claims[held.claim.stream_id, held.claim.epoch] = held

    def let_go(self, held: Held) -> None:
        """It will not be run, or has been."""
        self.claims.pop((held.claim.stream_id, held.claim.epoch), None)

    async def run(self, held: Held) -> None:
        """Run what was claimed; returns when its end is in Redis, or when it is somebody else's."""
        self.let_go(held)
        stream_id = held.claim.stream_id
        generation = Generation(self.resources, held.claim, time.monotonic(), held.taken_at)
        # Every line that is logged below this task has them, down to the call of the provider.
        structlog.contextvars.bind_contextvars(stream_id=stream_id, request_id=generation.context.request_id)
        earlier = self.generations.get(stream_id)
        if earlier is not None:  # it was requeued while that one had not noticed, and came back to this process
            earlier.hear(News(is_lost=True))
        self.generations[stream_id] = generation
        try:
            # A task of its own: stopping it must not look like arq's own cancelling.
            await asyncio.create_task(generation.run())
            await generation.settled()
            await self._leave_active(held.claim, generation)
        finally:
            if self.generations.get(stream_id) is generation:
                del self.generations[stream_id]

    async def _leave_active(self, claim: Claim, generation: Generation) -> None:
        """In a cluster the owner's set of active streams is in another slot than the end. One that is missed counts
        until a start of its owner looks at it."""
        store = self.resources.store
        if not store.names.is_cluster or not generation.log.has_end or generation.log.is_lost:
            return
        with contextlib.suppress(*AWAY, TimeoutError):
            async with asyncio.timeout(LEAVE_TIMEOUT_S):
                await store.ask("ZREM", store.names.active(claim.owner), claim.stream_id)

    def cancel(self, stream_id: str) -> None:
        """A cancel was heard of; the fact itself is in Redis."""
        generation = self.generations.get(stream_id)
        if generation is not None:
            generation.hear(News(is_cancelled=True))

    def figures(self) -> Figures:
        """What the gauges show."""
        using, generations = self.resources, self.generations.values()
        return Figures(
            generations=len(generations),
            most=using.settings.max_jobs,
            buffered_bytes=sum(item.log.unacked_bytes for item in generations),
            dirty_logs=using.writer.dirty,
            lag_s=self.lag.seconds,
            circuits={
                model: vitals.circuit
                for model, vitals in using.circuits.vitals().items()
                if any(row.id == model for row in using.catalogue.models)  # a record may outlive its row
            },
            append_trips=using.writer.trips,
            other_trips=using.store.round_trips,
            entries=using.writer.entries,
        )

    # -- once in a while -----------------------------------------------------------------------------------------------

    async def keep(self) -> None:
        """Owned by the process; ends only by being cancelled."""
        renewals, syncs = Outage(), Outage()
        while True:
            now = time.monotonic()
            for generation in list(self.generations.values()):
                self._check(generation, now)
            if now - self._renewed_at >= scripts.RENEW_EVERY_S:
                try:
                    await self.renew()
                    self._renewed_at = now
                    renewals.over()
                except Exception as error:
                    if renewals.failed():
                        place, failures = self.resources.store.place(), renewals.failures
                        log.warning("renew_failed", redis=place, error=describe(error), failures=failures)
            if now - self._synced_at >= SYNC_S:
                self._synced_at = now
                try:
                    await self.resources.circuits.sync(self.resources.store)
                    syncs.over()
                except Exception as error:
                    if syncs.failed():
                        place, failures = self.resources.store.place(), syncs.failures
                        log.warning("circuit_sync_failed", redis=place, error=describe(error), failures=failures)
            await asyncio.sleep(TICK_S)

    def _check(self, generation: Generation, now: float) -> None:
        """One that fails at it costs no other its lease."""
        try:
            generation.check(now)
        except Exception:
            log.exception("check_failed", stream_id=generation.stream_id)

    async def renew(self) -> None:
        """Say that we live: leases, time to live of what is being written, what we offer. Each server is told by
        itself, so that one which is away costs no lease elsewhere. Raises what is in `AWAY`, or TimeoutError."""
        by_server: dict[str | None, list[tuple[str, list[tuple[str, int]]]]] = {}
        for tag, held in self._held().items():
            by_server.setdefault(self.resources.store.server_of(tag), []).append((tag, held))
        told = [_in_time(self._renew_there(batches)) for batches in by_server.values()]
        for answer in await asyncio.gather(*told, _in_time(self._announce()), return_exceptions=True):
            if isinstance(answer, BaseException):
                raise answer

    async def _renew_there(self, batches: list[tuple[str, list[tuple[str, int]]]]) -> None:
        store, retention_ms = self.resources.store, self.resources.settings.retention_ms
        for tag, held in batches:
            for start in range(0, len(held), scripts.MAX_BATCH_ENTRIES):
                batch = held[start : start + scripts.MAX_BATCH_ENTRIES]
                arguments = scripts.renew(scripts.LEASE_MS, retention_ms, batch)
                self._heard(batch, scripts.renew_reply(await store.run(scripts.RENEW, arguments, tag)))

    def _heard(self, batch: list[tuple[str, int]], reply: scripts.RenewReply) -> None:
        for stream_id, epoch in batch:
            generation = self.generations.get(stream_id)
            if generation is None or generation.epoch != epoch or generation.log.has_end:
                continue  # its end is on the way: what is said of it now may be said because of that
            is_heard = stream_id in reply.heard
            generation.hear(News(stream_id in reply.lost, stream_id in reply.cancelled, is_heard))

    def _held(self) -> dict[str, list[tuple[str, int]]]:
        """Stream and epoch of what is ours, by partition."""
        held = list(self.claims)
        held += [(item.stream_id, item.epoch) for item in self.generations.values() if not item.log.is_closed]
        by_tag: dict[str, list[tuple[str, int]]] = {}
        for each in held:
            by_tag.setdefault(partitions.tag_of(each[0]), []).append(each)
        return by_tag

    async def _announce(self) -> None:
        """What this worker offers, and away with what dead ones offered."""
        store = self.resources.store
        name = store.names.for_all(keys.WORKERS)
        (seconds, micros), others = await store.ask_all([("TIME",), ("HGETALL", name)], partitions.GLOBAL)
        now_ms = seconds * 1000 + micros // 1000
        read = {worker: worker_registry.unpack(raw) for worker, raw in others.items()}
        dead = [worker for worker, offer in read.items() if offer is None or offer.until_ms < now_ms]
        living = {
            worker.decode("ascii", "replace"): offer
            for worker, offer in read.items()
            if offer is not None and worker not in dead
        }
        mine = Offer(
            until_ms=now_ms + OFFER_MS,
            dialects=() if self.is_leaving else tuple(self.resources.providers),
            lacks=self._lacks,
            running=len(self.generations),
            max_jobs=self.resources.settings.max_jobs,
            models=() if self.is_leaving else self.resources.models,
            is_late=self.lag.is_lasting,
        )
        self.workers = tuple(sorted({*living, self.worker_id}))
        self.turns.learn({**living, self.worker_id: mine})
        commands: list[tuple[Any, ...]] = [("HDEL", name, *dead)] if dead else []
        commands += [("HSET", name, self.worker_id, worker_registry.pack(mine)), ("PEXPIRE", name, OFFER_MS)]
        await store.ask_all(commands)

    async def withdraw(self) -> None:
        """The offer is void from now on. Raises what is in `AWAY`."""
        store = self.resources.store
        await store.ask("HDEL", store.names.for_all(keys.WORKERS), self.worker_id)


async def _in_time(told: Coroutine[Any, Any, None]) -> None:
    """One that is half open must not cost the lease: it is given up while there is time for another."""
    async with asyncio.timeout(RENEW_TIMEOUT_S):
        await told
