"""Is it alive, is it ready, what does it count. Touches no stream."""

from __future__ import annotations

import asyncio
import math
from typing import Final

import structlog
from redis.exceptions import RedisError

from tokenrelay.protocol.runtime import exposition
from tokenrelay.protocol.runtime.redis import code_of, describe, pool_place
from tokenrelay.protocol.store import keys
from tokenrelay.server.http import Call
from tokenrelay.server.store.redis import UNREACHABLE, may_pass

PROBE_AGE_S: Final = 4.0
PING_TIMEOUT_S: Final = 2.0
READY_MS: Final = 10_000
"""What proves that Redis takes writes lives this long."""

log = structlog.get_logger()


async def alive(call: Call) -> None:
    """`GET /healthz`: the loop turns."""
    await call.json(200, {"status": "ok"})


async def ready(call: Call) -> None:
    """`GET /readyz`: 200 when new streams can be taken, else 503; either way why."""
    edge = call.edge
    redis, code = await _redis(call)
    probe_age = edge.hub.probe_age_s
    live_ok = probe_age <= PROBE_AGE_S
    is_ready = redis == "ok" and live_ok and not (edge.in_trouble or edge.auth.trouble or edge.is_draining)
    body = {
        "status": "ready" if is_ready else "not ready",
        "redis": redis,
        "live_feed": "ok" if live_ok else "silent",
        "live_feed_probe_age_s": round(probe_age, 3) if math.isfinite(probe_age) else None,
        "draining": edge.is_draining,
        "tasks_in_trouble": sorted(edge.in_trouble),
        "files_in_trouble": edge.auth.trouble,
        "workers": edge.models.workers,
        "edge": repr(edge),
    }
    if code:
        body["redis_error"] = code
    await call.json(200 if is_ready else 503, body)


async def _redis(call: Call) -> tuple[str, str]:
    """Whether it takes a write, and the code of its error reply: one that only answers reads takes no new stream."""
    redis = call.edge.redis
    try:
        async with asyncio.timeout(PING_TIMEOUT_S):
            await redis.set(keys.READY, b"", px=READY_MS)
    except (*UNREACHABLE, RedisError, TimeoutError) as error:
        if isinstance(error, (*UNREACHABLE, TimeoutError)) and not may_pass(error):
            return "unreachable", ""
        log.warning("redis_refuses_writes", redis=pool_place(redis), error=describe(error))
        return "refuses writes", code_of(error)
    return "ok", ""


async def counters(call: Call) -> None:
    """`GET /metrics`: Prometheus text."""
    edge = call.edge
    depth = await _queue_depth(call)
    edge.queue_depth = depth
    text = edge.exposition.text()
    edge.queue_depth = None
    await call.answer(200, text, exposition.CONTENT_TYPE)


async def _queue_depth(call: Call) -> int | None:
    try:
        async with asyncio.timeout(PING_TIMEOUT_S):
            return int(await call.edge.redis.zcard(keys.WAITING))
    except (*UNREACHABLE, RedisError, TimeoutError):
        return None
