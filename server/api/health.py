"""Is it alive, is it ready, what does it count. Touches no stream."""

from __future__ import annotations

import asyncio
import math
from typing import Final

from redis.exceptions import RedisError

from tokenrelay.protocol.runtime import exposition
from tokenrelay.protocol.store import keys
from tokenrelay.server.http import Call
from tokenrelay.server.store.redis import UNREACHABLE

PROBE_AGE_S: Final = 4.0
PING_TIMEOUT_S: Final = 2.0


async def alive(call: Call) -> None:
    """`GET /healthz`: the loop turns."""
    await call.json(200, {"status": "ok"})


async def ready(call: Call) -> None:
    """`GET /readyz`: 200 when new streams can be taken, else 503; either way why."""
    edge = call.edge
    redis_ok = await _ping(call)
    probe_age = edge.hub.probe_age_s
    live_ok = probe_age <= PROBE_AGE_S
    is_ready = redis_ok and live_ok and not edge.is_draining
    body = {
        "status": "ready" if is_ready else "not ready",
        "redis": "ok" if redis_ok else "unreachable",
        "live_feed": "ok" if live_ok else "silent",
        "live_feed_probe_age_s": round(probe_age, 3) if math.isfinite(probe_age) else None,
        "draining": edge.is_draining,
        "workers": edge.models.workers,
        "edge": repr(edge),
    }
    await call.json(200 if is_ready else 503, body)


async def _ping(call: Call) -> bool:
    try:
        async with asyncio.timeout(PING_TIMEOUT_S):
            await call.edge.redis.ping()
    except (*UNREACHABLE, RedisError, TimeoutError):
        return False
    return True


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
