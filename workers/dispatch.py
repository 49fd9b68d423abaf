"""The taking side of arq: which jobs this process runs, and when. All a worker knows of arq.

arq's own loop polls every half second and walks all running jobs with three round trips each; at 2,000 in flight it
takes
seconds to see a new one. Here the queue holds only what waits: one script takes the oldest ids, gives each an epoch
and a
lease, and a word published on enqueue wakes the loop, so that polling is only for words that were lost. What remains
of arq
is its queue, its job format and `Worker.run_job`; its retries, aborts, results and health keys are not used.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any, Final

import structlog
from arq import Worker, func
from redis.asyncio.client import PubSub

from protocol import keys, scripts
from protocol.runtime.redis import run
from workers.house import House
from workers.redis import AWAY

JOB: Final = "generate"
POLL_S: Final = 0.25
CLAIM_AT_ONCE: Final = 16
"""So that a burst is shared by all workers that were woken."""

LISTEN_S: Final = 5.0

log = structlog.get_logger()


class LeaseWorker(Worker):
    """arq's worker with claims in place of polling."""

    def __init__(self, house: House) -> None:
        settings = house.settings
        super().__init__(
            functions=[func(house.generate, name=JOB)],
            queue_name=keys.WAITING,
            redis_pool=house.redis,
            handle_signals=False,
            max_jobs=settings.max_jobs,
            # arq cancels a job after this; the generation has ended itself before.
            job_timeout=settings.generation_timeout_s + 60,
            keep_result=0,
            # A restart is a claim with the next epoch, bounded by lifecycle.MAX_ATTEMPTS.
            max_tries=1_000,
            retry_jobs=False,
            job_deserializer=house.redis.job_deserializer,
            log_results=False,
        )
        self._house = house
        self._woken = asyncio.Event()
        self.is_claiming = True

    def wake(self) -> None:
        self._woken.set()

    async def main(self) -> None:
        """Claim, start, wait for a word; until cancelled."""
        while True:
            self._woken.clear()
            try:
                claimed = await self._claim()
            except AWAY as error:
                log.warning("claim_failed", error=type(error).__name__)
                claimed = 0
            if claimed < CLAIM_AT_ONCE:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._woken.wait()

    async def _claim(self) -> int:
        """Take what waits, as far as there is room. Gives how many."""
        room = min(CLAIM_AT_ONCE, self.max_jobs - len(self.tasks))
        if room <= 0 or not self.is_claiming:
            return 0
        arguments = scripts.claim(room, scripts.LEASE_MS, self._house.worker_id)
        claims = scripts.claim_reply(await run(self._house.redis, scripts.CLAIM, arguments))
        for claim in claims:
            self._house.claims[claim.stream_id] = claim
            self._house.taken_at[claim.stream_id] = time.monotonic()
            task = asyncio.create_task(self.run_job(claim.stream_id, 0))
            self.tasks[claim.stream_id] = task
            task.add_done_callback(self._done(claim.stream_id))
        return len(claims)

    def _done(self, job_id: str) -> Callable[[asyncio.Task[Any]], None]:
        def done(task: asyncio.Task[Any]) -> None:
            if self.tasks.get(job_id) is task:
                del self.tasks[job_id]
            self._house.claims.pop(job_id, None)
            self._house.taken_at.pop(job_id, None)
            self.wake()
            if not task.cancelled() and task.exception() is not None:
                log.error("job_failed", stream_id=job_id, error=repr(task.exception()))

        return done

    async def finish_job(self, job_id: str, *_: Any, **__: Any) -> None:
        """Nothing: the script that wrote the end has removed the job. One that is not ended (we were fenced, or it
        was handed
        back) is somebody else's, and must not be removed by us."""

    async def finish_failed_job(self, job_id: str, result_data: bytes | None) -> None:  # noqa: ARG002  arq's signature
        """arq could not even begin (no job data, or none it can read). The lease runs out and the reaper ends it."""
        log.error("job_unreadable", stream_id=job_id)


async def listen(house: House, worker: LeaseWorker) -> None:
    """Words that make things quick: something waits, something is to be stopped. The facts are in Redis either way.

    Owned by the process; ends only by being cancelled.
    """
    while True:
        pubsub: PubSub = house.redis.pubsub()
        try:
            await pubsub.subscribe(keys.WAKE, keys.CANCEL)
            house.metrics.wake_connects.inc()
            worker.wake()
            while True:
                message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=LISTEN_S)
                if message is None:
                    continue
                if message["channel"] == keys.CANCEL.encode():
                    house.stop(message["data"].decode("ascii", "replace"))
                else:
                    worker.wake()
        except AWAY as error:
            log.warning("wake_feed_lost", error=type(error).__name__)
        finally:
            with contextlib.suppress(Exception):
                await asyncio.shield(pubsub.aclose())  # type: ignore[no-untyped-call]
        await asyncio.sleep(0.1)
