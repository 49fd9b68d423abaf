"""One worker process: opens what it needs, runs its loops, and leaves in order. Knows no generation."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import aiohttp
import structlog
import uvloop

from tokenrelay.protocol.models import catalogue
from tokenrelay.protocol.runtime import logs
from tokenrelay.protocol.runtime.exposition import Exposition, Slot
from tokenrelay.protocol.runtime.stores import opening
from tokenrelay.protocol.runtime.stores.base import Store
from tokenrelay.protocol.runtime.supervisor import Supervisor
from tokenrelay.protocol.runtime.tracing import open_tracing
from tokenrelay.workers import metrics_endpoint, open_providers
from tokenrelay.workers.dispatch.arq_worker import LeaseWorker
from tokenrelay.workers.dispatch.leases import Leases
from tokenrelay.workers.dispatch.listening import listen
from tokenrelay.workers.generation.resources import open_resources
from tokenrelay.workers.providers import local
from tokenrelay.workers.providers.base import ProviderError
from tokenrelay.workers.providers.handler_thread import HandlerThread
from tokenrelay.workers.redis import AWAY, MAX_CONNECTIONS
from tokenrelay.workers.reloading import Reloader
from tokenrelay.workers.settings import Settings
from tokenrelay.workers.tools import servers
from tokenrelay.workers.tools.mcp import Server
from tokenrelay.workers.tools.registry import Toolbox

VITAL: Final = ("writer", "pulse", "claims", "wake_feed")
"""Tasks without which a worker answers nobody."""

FLUSH_S: Final = 3.0
FIRST_SYNC_S: Final = 1.0
CLOSE_S: Final = 2.0

log = structlog.get_logger()


def run(settings: Settings, slot: Slot | None = None) -> None:
    """Work until a signal; returns when what ran has ended or was requeued."""
    logs.configure(settings.log_level, settings.log_format)
    listener = None
    if settings.metrics_port:  # here, so that a port that is taken is said before anything is opened
        listener = metrics_endpoint.bind(settings.metrics_host, settings.metrics_port, is_shared=slot is not None)
    uvloop.run(_main(settings, slot, listener))


def run_child(settings: Settings, counts: Path, index: int) -> None:
    """One of several: it has a place in the folder of counts."""
    run(settings, Slot(counts, index))


class _Opened(NamedTuple):
    """What `_main` runs, all of it opened."""

    leases: Leases
    worker: LeaseWorker
    exposition: Exposition
    handlers: HandlerThread
    reloader: Reloader


async def _main(settings: Settings, slot: Slot | None, listener: socket.socket | None) -> None:
    leaving = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, leaving.set)
    async with contextlib.AsyncExitStack() as stack:
        opened = await _open(settings, slot, stack)
        given_up: list[str] = []

        def give_up(task: str) -> None:
            given_up.append(task)
            leaving.set()

        supervisor = Supervisor(opened.leases.resources.metrics.task_failures, give_up)
        stack.callback(opened.exposition.write)
        stack.push_async_callback(supervisor.close)
        for name, loop in _loops(opened, listener):
            supervisor.own(name, loop, is_vital=name in VITAL)
        using = opened.leases.resources
        log.info(
            "worker_started",
            worker_id=opened.leases.worker_id,
            dialects=list(using.providers),
            max_jobs=settings.max_jobs,
        )
        await leaving.wait()
        await _leave(opened.leases, opened.worker)
    if given_up:
        raise SystemExit(1)  # whoever restarts it gets a new process, not one that is deaf


async def _open(settings: Settings, slot: Slot | None, stack: contextlib.AsyncExitStack) -> _Opened:
    """Everything that lives as long as the process; `stack` closes it in reverse."""
    worker_id = secrets.token_hex(6)
    store = opening.open_store(settings.redis_url, MAX_CONNECTIONS, settings.redis_tls, settings.redis_partitions)
    stack.push_async_callback(_close_store, store)
    await opening.begin(store)
    models = catalogue.parse(settings.catalogue.read_text(encoding="utf-8"))
    # One pool for all providers. It bounds connections by the jobs that could want one; times are the providers' own.
    session = await stack.enter_async_context(
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=settings.max_jobs), timeout=aiohttp.ClientTimeout(total=None)
        )
    )
    handlers = HandlerThread(settings.handler_threads)
    stack.push_async_callback(handlers.close)
    providers, lacks = open_providers.open_providers(settings, models, session, handlers)
    for provider in providers.values():
        stack.push_async_callback(provider.aclose)
    tracing = open_tracing("tokenrelay-worker")
    stack.push_async_callback(asyncio.to_thread, tracing.close)
    tools = open_toolbox(settings)
    stack.callback(tools.close)
    using = open_resources(settings, store, models, providers, worker_id, tools, tracing)
    # What the others know comes before the first claim; with Redis away it comes with the first renewal.
    with contextlib.suppress(*AWAY, TimeoutError):
        async with asyncio.timeout(FIRST_SYNC_S):
            await using.circuits.sync(store)
    leases = Leases(using, worker_id, lacks)
    exposition = Exposition(using.metrics, lambda: using.metrics.look(leases.figures()), slot)
    return _Opened(leases, LeaseWorker(leases), exposition, handlers, Reloader(models, providers, lacks, handlers))


def _loops(opened: _Opened, listener: socket.socket | None) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
    """What runs side by side until the process goes, by the names of `metrics.TASKS`."""
    using = opened.leases.resources
    yield "store", using.store.keep_map
    yield "writer", using.writer.run
    yield "pulse", opened.leases.keep
    yield "lag", opened.leases.lag.watch
    yield "claims", opened.worker.main
    yield "wake_feed", lambda: listen(opened.leases, opened.worker)
    yield "tools", using.tools.run
    yield "handlers", lambda: opened.handlers.watch(using.metrics.handler_blocked)
    if opened.reloader.rows and not using.settings.handlers_required:
        yield "reload", opened.reloader.run
    yield "counts", opened.exposition.run
    if listener is not None:
        yield "metrics", lambda: metrics_endpoint.serve(opened.exposition, listener)
    model = using.providers.get("local")
    if using.settings.warm and isinstance(model, local.Local):
        yield "warm", lambda: _warm(model)


async def _close_store(store: Store) -> None:
    """A connection that hangs does not hold up a process that goes."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(CLOSE_S):
            await store.aclose()


async def _warm(model: local.Local) -> None:
    """The first answer need not wait for the model to load; if it cannot be loaded, the first request says so."""
    with contextlib.suppress(ProviderError):
        await model.warm()
    await asyncio.Event().wait()  # as long-lived as the loops it stands among


async def _leave(leases: Leases, worker: LeaseWorker) -> None:
    """Take nothing more; let what runs finish for a while; requeue or end the rest; write it all."""
    finish_s = leases.resources.settings.finish_s
    worker.is_claiming = False
    leases.is_leaving = True
    log.info("leaving", generations=len(leases.generations), finish_s=finish_s)
    with contextlib.suppress(*AWAY):
        await leases.withdraw()
    deadline = time.monotonic() + finish_s
    while worker.tasks and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    for generation in list(leases.generations.values()):
        generation.stop("leaving")
    if worker.tasks:
        await asyncio.wait(list(worker.tasks.values()), timeout=FLUSH_S)
    flushed = await leases.resources.writer.flushed(FLUSH_S)
    log.info("left", flushed=flushed, still_running=len(worker.tasks))


def open_toolbox(settings: Settings) -> Toolbox:
    """The built-in tools and the MCP servers of the settings file, none of them started yet."""
    configs = servers.load(settings.mcp_servers, lambda said: log.warning("mcp_file", said=said))
    return Toolbox([Server(name, config) for name, config in configs.items()], settings.tool_timeout_s)
