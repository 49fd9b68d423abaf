"""Looks once a second for generations that nobody looks after, and ends them. Knows neither readers nor workers."""

from __future__ import annotations

import asyncio
import random
from typing import Final

import structlog

from protocol.errors import TokenrelayError
from server.jobs import Jobs
from server.metrics import Metrics

EVERY_S: Final = 1.0

log = structlog.get_logger()


async def keep(jobs: Jobs, metrics: Metrics) -> None:
    """Owned by the application; ends only by being cancelled. Any number of edges may do it at once: it is one script."""
    while True:
        await asyncio.sleep(random.uniform(0.8, 1.2) * EVERY_S)  # noqa: S311  so that edges take turns
        try:
            reaped = await jobs.reap()
        except TokenrelayError as error:
            log.warning("reap_failed", error_code=error.code)
            continue
        for outcome, number in (("lost", reaped.lost), ("again", reaped.again), ("late", reaped.late)):
            if number:
                metrics.reaped.labels(outcome).inc(number)
                log.warning("generations_reaped", outcome=outcome, number=number)
