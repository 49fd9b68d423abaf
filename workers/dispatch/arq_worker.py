"""The taking side of arq: which jobs this process runs, and when. All a worker knows of arq.

arq's own loop polls every half second and walks all running jobs with three round trips each; at 2,000 in flight it
takes seconds to see a new one. Here the queue holds only what waits: one script takes the oldest ids, gives each an
epoch and a lease, and a word published on enqueue wakes the loop, so that polling is only for words that were lost.
What remains of arq is its queue, its job format and `Worker.run_job`; its retries, aborts, results and health keys are
not used.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import msgpack
import structlog
from arq import ArqRedis, Worker, func
from arq.jobs import serialize_job

from tokenrelay.protocol.events import Failure
from tokenrelay.protocol.runtime.outage import Outage
from tokenrelay.protocol.runtime.redis import describe
from tokenrelay.protocol.store import entries, keys, scripts
from tokenrelay.protocol.store.scripts import Claim
from tokenrelay.workers.dispatch.leases import Held, Leases
from tokenrelay.workers.dispatch.partitions import ALL, POLL_S, Partitions
from tokenrelay.workers.dispatch.turns import LATE_S
from tokenrelay.workers.redis import AWAY

JOB: Final = "generate"
UNREADABLE: Final = "what was stored of this request cannot be read"
CLAIM_AT_ONCE: Final = 16
"""So that a burst is shared by all workers that were woken."""

log = structlog.get_logger()


class _Brought:
    """Stands where arq has its pool while it begins a job: what it would ask Redis for came with the claim."""

    def __init__(self, claims: Mapping[str, Held]) -> None:
        self._claims = claims

    def pipeline(self, *, transaction: bool) -> _Trip:  # noqa: ARG002  redis-py's signature
        return _Trip(self._claims)


class _Trip:
    """The one pipeline of `Worker.run_job`: the job, how often it was tried, and that this is remembered."""

    def __init__(self, claims: Mapping[str, Held]) -> None:
        self._claims = claims
        self._job_id = ""

    async def __aenter__(self) -> _Trip:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    def get(self, key: str) -> None:
        self._job_id = key.removeprefix(keys.ARQ_JOB)

    def incr(self, key: str) -> None: ...

    def expire(self, key: str, seconds: int) -> None: ...

    async def execute(self) -> tuple[bytes, int, bool]:
        claim = self._claims[self._job_id].claim
        return job_of(claim), claim.epoch, True  # each attempt has an epoch of its own


def job_of(claim: Claim) -> bytes:
    """arq's job as it came, or made anew where it is gone or unreadable: it says no more than the id."""
    try:
        if msgpack.unpackb(claim.job)["f"] == JOB:
            return claim.job
    except (ValueError, msgpack.UnpackException, TypeError, KeyError):
        log.warning("job_unreadable", stream_id=claim.stream_id)
    return serialize_job(JOB, (claim.stream_id,), {}, None, int(time.time() * 1000), serializer=msgpack.packb)


class LeaseWorker(Worker):
    """arq's worker with claims in place of polling."""

    def __init__(self, leases: Leases) -> None:
        settings = leases.resources.settings
        super().__init__(
            functions=[func(self._generate, name=JOB)],
            queue_name=keys.WAITING,
            handle_signals=False,
            max_jobs=settings.max_jobs,
            # arq cancels a job after this; the generation has ended itself before.
            job_timeout=settings.generation_timeout_s + 60,
            keep_result=0,
            # A restart is a claim with the next epoch, bounded by lifecycle.MAX_ATTEMPTS.
            max_tries=1_000,
            retry_jobs=False,
            job_deserializer=msgpack.unpackb,
            log_results=False,
        )
        self._claims: dict[str, Held] = {}  # by the id that arq knows: the same stream may come again, with an epoch
        self._pool = cast(ArqRedis, _Brought(self._claims))
        self._leases = leases
        self._store = leases.resources.store
        self._woken = asyncio.Event()
        self._partitions = Partitions(leases, self._woken.set)
        self._under_way: dict[str | None, asyncio.Task[None]] = {}  # claims of a cluster's servers
        self._late: dict[str, asyncio.TimerHandle] = {}  # partitions to be looked at after somebody else's turn
        self._outage = Outage()
        self.is_claiming = True

    def wake(self, tag: str | None = None) -> None:
        """Whatever waits in this partition is to be taken; None: in all of them."""
        self._partitions.heard(tag)
        self._woken.set()

    def called(self, tag: str, number: bytes) -> None:
        """One more waits in this partition; `number` says whose turn it is."""
        if self._leases.turns.is_ours(number):
            self._partitions.heard(tag, 1 if number else ALL)
            self._woken.set()
        elif tag not in self._late:
            self._late[tag] = asyncio.get_running_loop().call_later(LATE_S, self._look_late, tag)

    def _look_late(self, tag: str) -> None:
        del self._late[tag]
        self.wake(tag)

    async def main(self) -> None:
        """Claim, start, wait for a word; until cancelled."""
        try:
            while True:
                self._woken.clear()
                await self._look()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._woken.wait()
        finally:
            self._partitions.close()
            for task in self._under_way.values():
                task.cancel()

    async def _look(self) -> None:
        """Take what waits, as far as there is room."""
        if not self._has_room():
            return
        self._partitions.poll()
        if not self._store.names.is_cluster:
            for tags in self._partitions.take_heard().values():
                await self._claim_from(tags)
            return
        # Each server by itself: one that does not answer holds up no claim elsewhere.
        for server, tags in self._partitions.take_heard(except_of=self._under_way).items():
            task = self._under_way[server] = asyncio.create_task(self._claim_from(tags))
            task.add_done_callback(lambda _, server=server: self._looked(server))  # type: ignore[misc]

    def _has_room(self) -> bool:
        return self.is_claiming and len(self.tasks) < self.max_jobs

    def _looked(self, server: str | None) -> None:
        del self._under_way[server]
        self._woken.set()

    async def _claim_from(self, tags: dict[str, int]) -> None:
        """As many as said of each partition."""
        for tag, number in tags.items():
            left = number
            while left > 0 and self._has_room():
                asked = min(left, CLAIM_AT_ONCE, self.max_jobs - len(self.tasks))
                if await self._claim_patiently(tag, asked) < asked:
                    break
                left -= asked

    async def _claim_patiently(self, tag: str, most: int) -> int:
        """Gives how many; none while Redis is away."""
        try:
            claimed = await self._claim(tag, most)
        except AWAY as error:
            if self._outage.failed():
                place = self._store.place(self._store.server_of(tag))
                log.warning("claim_failed", redis=place, error=describe(error))
            return 0
        self._outage.over()
        return claimed

    async def _claim(self, tag: str, most: int) -> int:
        unreadable = entries.pack(Failure(int(time.time() * 1000), "INTERNAL_ERROR", UNREADABLE, False))
        retention_ms = self._leases.resources.settings.retention_ms
        models = self._leases.resources.models
        arguments = scripts.claim(most, scripts.LEASE_MS, self._leases.worker_id, unreadable, retention_ms, models)
        claims = scripts.claim_reply(await self._store.run(scripts.CLAIM, arguments, tag))
        for claim in claims:
            self._begin(Held(claim, time.monotonic()))
        return len(claims)

    def _begin(self, held: Held) -> None:
        job_id = f"{held.claim.stream_id}:{held.claim.epoch}"
        self._leases.hold(held)
        self._claims[job_id] = held
        task = asyncio.create_task(self.run_job(job_id, 0))
        self.tasks[job_id] = task
        task.add_done_callback(self._done(job_id))

    def _done(self, job_id: str) -> Callable[[asyncio.Task[Any]], None]:
        def done(task: asyncio.Task[Any]) -> None:
            was_full = len(self.tasks) >= self.max_jobs
            del self.tasks[job_id]
            self._leases.let_go(self._claims.pop(job_id))
            if was_full:
                self.wake()
            if not task.cancelled() and task.exception() is not None:
                log.error("job_failed", stream_id=job_id, error=repr(task.exception()))

        return done

    async def _generate(self, ctx: dict[Any, Any], stream_id: str) -> None:  # noqa: ARG002  arq's signature
        """arq's one job. Its claim was made before it: that says which stream, and which attempt at it."""
        await self._leases.run(self._claims[ctx["job_id"]])

    async def finish_job(self, job_id: str, *_: Any, **__: Any) -> None:
        """Nothing: the script that wrote the end has removed the job. One that is not ended (we were fenced, or it
        was requeued) is somebody else's, and must not be removed by us."""

    async def finish_failed_job(self, job_id: str, result_data: bytes | None) -> None:  # noqa: ARG002  arq's signature
        """arq could not even begin. The lease runs out and the reaper ends it."""
        log.error("job_not_begun", stream_id=job_id)
