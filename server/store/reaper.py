"""Looks once a second for generations that nobody looks after, and ends them. Knows neither readers nor workers."""

from __future__ import annotations

import asyncio
import random
from typing import Final

import structlog
from redis.exceptions import RedisError

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.runtime.outage import Outage
from tokenrelay.protocol.runtime.redis import describe
from tokenrelay.server.metrics import Metrics
from tokenrelay.server.store.jobs import Jobs

EVERY_S: Final = 1.0

log = structlog.get_logger()


async def keep(jobs: Jobs, metrics: Metrics) -> None:
    """Owned by the application; ends only by being cancelled. Any number of edges may do it at once: it is one
    script."""
    outage = Outage()
    while True:
        await asyncio.sleep(random.uniform(0.8, 1.2) * EVERY_S)  # noqa: S311  so that edges take turns
        try:
            reaped = await jobs.reap()
        except (TokenrelayError, RedisError) as error:
            if outage.failed():
                log.warning("reap_failed", error=describe(error.__cause__ or error), failures=outage.failures)
            continue
        outage.over()
        for outcome, number in (("lost", reaped.lost), ("again", reaped.again), ("late", reaped.late)):
            if number:
                metrics.reaped.labels(outcome).inc(number)
                log.warning("generations_reaped", outcome=outcome, number=number)
