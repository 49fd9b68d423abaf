"""Sends the webhooks that are due: a few at a time, each until the receiver has it, for 24 hours at most.

Any number of edges may do it at once. A webhook belongs to one of them for a lease; if that edge dies, another one
sends it again. The receiver may get it twice, with the same `webhook-id`.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Final

import structlog
from redis.exceptions import RedisError

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.runtime.outage import Outage, is_told
from tokenrelay.protocol.runtime.redis import describe
from tokenrelay.protocol.store.scripts import NOTIFY_MS, Ended
from tokenrelay.server.metrics import Metrics
from tokenrelay.server.settings import Settings, parse_webhook_secrets
from tokenrelay.server.store.jobs import Jobs
from tokenrelay.server.store.log import LogReader
from tokenrelay.server.webhooks import signature
from tokenrelay.server.webhooks.message import body_of

if TYPE_CHECKING:
    import aiohttp

LOOK_EVERY_S: Final = 0.5
AT_ONCE: Final = 16
"""Webhooks under way from one edge process."""

TIMEOUT_S: Final = 15.0
"""For the receiver's answer: Standard Webhooks advises 15 to 30 s."""

LEASE_MS: Final = 30_000
"""Longer than reading the log and sending take together."""

FIRST_PAUSE_S: Final = 1.0
MAX_PAUSE_S: Final = 600.0
MAX_RETRY_AFTER_S: Final = 3_600.0
GONE: Final = 410
"""The receiver wants no such webhook any more (Standard Webhooks, "Response codes")."""

log = structlog.get_logger()


class Sender:
    """One a process, where there is a webhook."""

    def __init__(self, settings: Settings, jobs: Jobs, reads: LogReader, metrics: Metrics) -> None:
        self._url = settings.webhook_url
        self._secrets = parse_webhook_secrets(settings.webhook_secret)
        self._jobs = jobs
        self._reads = reads
        self._metrics = metrics
        self._under_way: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Sender {len(self._under_way)} under way>"

    async def run(self) -> None:
        """Owned by the process; ends only by being cancelled."""
        import aiohttp  # only edges with a webhook pay for it

        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        jar = aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=jar, auto_decompress=False) as session:
            try:
                await self._keep_sending(session)
            finally:
                under_way = list(self._under_way)
                for task in under_way:
                    task.cancel()
                await asyncio.gather(*under_way, return_exceptions=True)

    async def _keep_sending(self, session: aiohttp.ClientSession) -> None:
        outage = Outage()
        while True:
            await asyncio.sleep(random.uniform(0.5, 1.0) * LOOK_EVERY_S)  # noqa: S311  so that edges take turns
            try:
                await self._look(session)
            except (TokenrelayError, RedisError) as error:
                if outage.failed():
                    log.warning("webhooks_unknown", error=describe(error.__cause__ or error), failures=outage.failures)
            else:
                outage.over()

    async def _look(self, session: aiohttp.ClientSession) -> None:
        most = AT_ONCE - len(self._under_way)
        if not most:
            return
        found = await self._jobs.due_webhooks(most, LEASE_MS)
        self._metrics.webhooks_waiting.set(found.waiting)
        if found.dropped:
            self._metrics.webhooks.labels("dropped").inc(found.dropped)
            log.error("webhooks_dropped", number=found.dropped, waiting=found.waiting)
        for ended in found.taken:
            task = asyncio.create_task(self._send(session, ended))
            self._under_way.add(task)
            task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("webhook_failed", error=type(error).__name__, exc_info=error)

    async def _send(self, session: aiohttp.ClientSession, ended: Ended) -> None:
        """One webhook, once. Whatever fails here, its lease ends and it is due again."""
        try:
            if ended.age_ms >= NOTIFY_MS:
                await self._done(ended, "given_up")
                return
            found = await self._reads.describe(ended.stream_id)
            if found is None or found.is_deleted:
                await self._jobs.notified(ended.stream_id, None)
                return
            status, retry_after_s = await self._post(session, ended, await body_of(self._reads, found))
            if 200 <= status < 300:
                await self._done(ended, "delivered")
            elif status == GONE:
                await self._done(ended, "given_up")
            else:
                await self._jobs.notified(ended.stream_id, pause_ms(ended.tries, retry_after_s))
                self._metrics.webhooks.labels("failed").inc()
        except (TokenrelayError, RedisError) as error:
            log.warning("webhook_postponed", stream_id=ended.stream_id, error=describe(error.__cause__ or error))

    async def _done(self, ended: Ended, outcome: str) -> None:
        await self._jobs.notified(ended.stream_id, None)
        self._metrics.webhooks.labels(outcome).inc()
        if outcome != "delivered":
            log.error("webhook_given_up", stream_id=ended.stream_id, tries=ended.tries)

    async def _post(self, session: aiohttp.ClientSession, ended: Ended, body: bytes) -> tuple[int, float]:
        """The receiver's status and how long it asks to be left alone; 0 where there is no answer.

        No redirect is followed: only the operator says where answers go.
        """
        import aiohttp

        headers = signature.headers(ended.stream_id, int(time.time()), body, self._secrets)
        headers |= {"content-type": "application/json", "user-agent": "Tokenrelay"}
        failure, status, retry_after_s = "", 0, 0.0
        try:
            async with session.post(self._url, data=body, headers=headers, allow_redirects=False) as answer:
                status = answer.status
                retry_after_s = _seconds(answer.headers.get("retry-after", ""))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            failure = type(error).__name__  # its text may hold the address, and that a secret
        if not 200 <= status < 300 and is_told(ended.tries):
            log.warning(
                "webhook_refused", stream_id=ended.stream_id, tries=ended.tries, status=status or None,
                error=failure or None,
            )  # fmt: skip
        return status, retry_after_s


def pause_ms(tries: int, retry_after_s: float = 0.0) -> int:
    """Until the next try, after so many: doubled each time, with jitter so that edges and streams spread."""
    pause_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(tries - 1, 20))
    return int(1000 * max(pause_s * random.uniform(0.8, 1.2), min(retry_after_s, MAX_RETRY_AFTER_S)))  # noqa: S311


def _seconds(text: str) -> float:
    """Of a `Retry-After` in seconds; a date counts as none."""
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0
