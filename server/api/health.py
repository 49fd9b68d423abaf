"""Is it alive, is it ready, what does it count. Touches no stream."""

from __future__ import annotations

import asyncio
import math
from typing import Any, Final

import structlog
from redis.exceptions import RedisError

from tokenrelay.protocol.runtime import exposition
from tokenrelay.protocol.runtime.redis import code_of, describe
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
    ages = edge.hub.probe_ages
    # A cluster is ready while a part of it is: new streams begin there.
    probe_age = min(ages.values(), default=math.inf)
    live_ok = probe_age <= PROBE_AGE_S
    is_ready = redis == "ok" and live_ok and not (edge.in_trouble or edge.auth.trouble or edge.is_draining)
    body: dict[str, Any] = {
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
    if edge.store.names.is_cluster:
        body["cluster"] = {
            "servers": {
                server: "ok" if age <= PROBE_AGE_S else "silent" for server, age in sorted(edge.hub.probe_ages.items())
            },
            "partitions": len(edge.store.tags),
            "without_server": sum(edge.store.server_of(tag) is None for tag in edge.store.tags),
            "remarks": edge.store.remarks,
        }
    await call.json(200 if is_ready else 503, body)


async def _redis(call: Call) -> tuple[str, str]:
    """Whether it takes a write, and the code of its error reply: one that only answers reads takes no new stream."""
    store = call.edge.store
    try:
        async with asyncio.timeout(PING_TIMEOUT_S):
            await _write(call)
    except (*UNREACHABLE, RedisError, TimeoutError) as error:
        if isinstance(error, (*UNREACHABLE, TimeoutError)) and not may_pass(error):
            return "unreachable", ""
        log.warning("redis_refuses_writes", redis=store.place(), error=describe(error))
        return "refuses writes", code_of(error)
    return "ok", ""


async def _write(call: Call) -> None:
    """In a cluster, to a partition of a server that is well, if there is one. Raises RedisError, OSError."""
    store, ages = call.edge.store, call.edge.hub.probe_ages
    tag = min(store.tags, key=lambda tag: ages.get(store.server_of(tag) or "", math.inf))
    await store.ask("SET", keys.within(tag, keys.READY), b"", "PX", READY_MS)


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
            return await call.edge.jobs.partitions.depth()
    except (*UNREACHABLE, RedisError, TimeoutError):
        return None
