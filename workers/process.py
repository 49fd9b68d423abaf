"""One worker process: opens the house, runs its loops, and leaves in order. Knows no generation."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from pathlib import Path
from typing import Final

import aiohttp
import structlog
import uvloop

from tokenrelay.protocol.models import catalogue
from tokenrelay.protocol.runtime import logs
from tokenrelay.protocol.runtime.exposition import Exposition, Slot
from tokenrelay.protocol.runtime.supervisor import Supervisor
from tokenrelay.protocol.runtime.tracing import open_tracing
from tokenrelay.protocol.store import keys
from tokenrelay.workers import metrics_endpoint, open_providers
from tokenrelay.workers.dispatch.arq_worker import LeaseWorker, listen
from tokenrelay.workers.dispatch.leases import House
from tokenrelay.workers.providers import local
from tokenrelay.workers.providers.base import ProviderError
from tokenrelay.workers.redis import AWAY, open_pool
from tokenrelay.workers.settings import Settings
from tokenrelay.workers.tools import servers
from tokenrelay.workers.tools.mcp import Server
from tokenrelay.workers.tools.registry import Toolbox

FLUSH_S: Final = 3.0
FIRST_SYNC_S: Final = 1.0
CLOSE_S: Final = 2.0

log = structlog.get_logger()


def run(settings: Settings, slot: Slot | None = None) -> None:
    """Work until a signal; returns when what ran has ended or was handed back."""
    logs.configure(settings.log_level, settings.log_format)
    door = None
    if settings.metrics_port:  # here, so that a port that is taken is said before anything is opened
        door = metrics_endpoint.bind(settings.metrics_host, settings.metrics_port, is_shared=slot is not None)
    uvloop.run(_main(settings, slot, door))


def run_child(settings: Settings, counts: Path, index: int) -> None:
    """One of several: it has a place in the folder of counts."""
    run(settings, Slot(counts, index))


async def _main(settings: Settings, slot: Slot | None, door: socket.socket | None) -> None:
    redis = open_pool(settings.redis_url, keys.WAITING)
    models = catalogue.parse(settings.catalogue.read_text(encoding="utf-8"))
    # One pool for all makers. It bounds connections by the jobs that could want one; times are the providers' own.
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=settings.max_jobs), timeout=aiohttp.ClientTimeout(total=None)
    )
    providers, lacks = open_providers.open_providers(settings, models, session)
    tools = open_toolbox(settings)
    tracing = open_tracing("tokenrelay-worker")
    house = House(settings, redis, models, providers, lacks, tools, tracing)
    exposition = Exposition(house.metrics, lambda: house.metrics.look(house), slot)
    # What the others know comes before the first claim; with Redis away it comes with the pulse.
    with contextlib.suppress(*AWAY, TimeoutError):
        async with asyncio.timeout(FIRST_SYNC_S):
            await house.health.sync(redis)
    worker = LeaseWorker(house)
    leaving = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, leaving.set)
    supervisor = Supervisor(house.metrics.task_failures)
    supervisor.own("writer", house.writer.run)
    supervisor.own("pulse", house.pulse)
    supervisor.own("claims", worker.main)
    supervisor.own("wake_feed", lambda: listen(house, worker))
    supervisor.own("tools", tools.run)
    supervisor.own("counts", exposition.run)
    if door is not None:
        supervisor.own("metrics", lambda: metrics_endpoint.serve(exposition, door))
    model = providers.get("local")
    if settings.warm and isinstance(model, local.Local):
        supervisor.own("warm", lambda: _warm(model))
    log.info("worker_started", worker_id=house.worker_id, dialects=list(providers), max_jobs=settings.max_jobs)
    try:
        await leaving.wait()
        await _leave(house, worker)
    finally:
        await supervisor.close()
        exposition.write()
        tools.close()
        await asyncio.to_thread(tracing.close)
        for provider in providers.values():
            await provider.aclose()
        await session.close()
        # A connection that hangs does not hold up a process that goes.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_S):
                await redis.aclose(close_connection_pool=True)


async def _warm(model: local.Local) -> None:
    """The first answer need not wait for the model to load; if it cannot be loaded, the first request says so."""
    with contextlib.suppress(ProviderError):
        await model.warm()
    await asyncio.Event().wait()  # as long-lived as the loops it stands among


async def _leave(house: House, worker: LeaseWorker) -> None:
    """Take nothing more; let what runs finish for a while; hand back or end the rest; write it all."""
    worker.is_claiming = False
    house.is_leaving = True
    log.info("leaving", generations=len(house.generations), finish_s=house.settings.finish_s)
    with contextlib.suppress(*AWAY):
        await house.withdraw()
    deadline = time.monotonic() + house.settings.finish_s
    while worker.tasks and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    for generation in list(house.generations.values()):
        generation.stop("leaving")
    if worker.tasks:
        await asyncio.wait(list(worker.tasks.values()), timeout=FLUSH_S)
    flushed = await house.writer.flushed(FLUSH_S)
    log.info("left", flushed=flushed, still_running=len(worker.tasks))


def open_toolbox(settings: Settings) -> Toolbox:
    """The built-in tools and the MCP servers of the settings file, none of them started yet."""
    configs = servers.load(settings.mcp_servers)
    return Toolbox([Server(name, config) for name, config in configs.items()], settings.tool_timeout_s)
