"""The thread where handlers run, on an event loop of its own, and the channel their parts come through.

    handlers' thread (or one thread for each sync handler) -- put --> Channel -- take --> the worker's loop

A handler that blocks holds up other handlers at most: leases are renewed on the worker's loop. Knows no parts.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

import structlog

MOST_WAITING: Final = 256
"""Items on their way; then who writes waits."""

CLEANUP_S: Final = 5.0
"""So long may a handler that was cancelled tidy up."""

CLOSE_S: Final = 1.0
WATCH_S: Final = 0.5
BLOCKED_S: Final = 1.0
"""The loop has not turned for so long: somebody blocks it."""

T = TypeVar("T")

log = structlog.get_logger()


class Channel(Generic[T]):
    """Items from any thread to one reader on the loop where it was made, in order."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._items: list[T] = []
        self._reader: asyncio.Future[None] | None = None  # None while the reader does not wait
        self._on_room: Callable[[], None] | None = None  # None while no writer waits
        self._on_close: list[Callable[[], None]] = []
        self.is_closed = False

    def put(self, item: T) -> None:
        with self._lock:
            if self.is_closed:
                return
            self._items.append(item)
            reader, self._reader = self._reader, None
        if reader is not None:
            with contextlib.suppress(RuntimeError):  # the worker's loop is closed: nobody reads any more
                self._loop.call_soon_threadsafe(resolve, reader)

    def is_full(self, on_room: Callable[[], None]) -> bool:
        """True: `on_room` is called, in the reader's thread, when there is room again or nobody reads any more."""
        with self._lock:
            if self.is_closed or len(self._items) < MOST_WAITING:
                return False
            self._on_room = on_room
            return True

    def on_close(self, callback: Callable[[], None]) -> None:
        """`callback` is called once nobody reads any more, in the thread that closes; here and now if that is so."""
        with self._lock:
            if not self.is_closed:
                self._on_close.append(callback)
                return
        callback()

    async def take(self) -> list[T]:
        """All that has come, at least one."""
        while True:
            with self._lock:
                items, self._items = self._items, []
                on_room, self._on_room = self._on_room, None
                reader: asyncio.Future[None] = self._loop.create_future()
                self._reader = None if items else reader
            if on_room is not None:
                on_room()
            if items:
                return items
            await reader

    def close(self) -> None:
        """Nobody reads any more; what is put is dropped."""
        with self._lock:
            self.is_closed = True
            self._items = []
            on_room, self._on_room = self._on_room, None
            callbacks, self._on_close = self._on_close, []
        if on_room is not None:
            on_room()
        for callback in callbacks:
            callback()


def resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class HandlerThread:
    """One a process, started by its first handler. `threads` bounds those of sync handlers."""

    def __init__(self, threads: int) -> None:
        self._loop = asyncio.new_event_loop()  # closed by `close`
        self._thread: threading.Thread | None = None  # None before the first handler
        self._free = asyncio.Semaphore(threads)
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<HandlerThread {len(self._tasks)} handlers>"

    def begin(self, name: str, work: Coroutine[Any, Any, None]) -> Callable[[], None]:
        """Runs `work` there; gives what cancels it, from any thread."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="handlers", daemon=True)
            self._thread.start()
        started: list[asyncio.Task[None]] = []

        def start() -> None:
            task = self._loop.create_task(work, name=name)
            started.append(task)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        def cancel() -> None:
            if not started[0].done():
                started[0].cancel()
                self._loop.call_later(CLEANUP_S, self._cancel_late, started[0])

        self._loop.call_soon_threadsafe(start)
        return lambda: self._call(cancel)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Awaited on the handlers' loop. Waits until a thread is free; who is cancelled leaves its thread running."""
        await self._free.acquire()
        done: asyncio.Future[None] = self._loop.create_future()
        results: list[T] = []
        errors: list[BaseException] = []

        def over() -> None:
            self._free.release()
            resolve(done)

        def run() -> None:
            try:
                results.append(work())
            except BaseException as error:  # SystemExit too: it ends the handler, not the worker
                errors.append(error)
            self._call(over)

        threading.Thread(target=contextvars.copy_context().run, args=(run,), name="handler", daemon=True).start()
        await done
        if errors:
            raise errors[0]
        return results[0]

    async def watch(self, blocked: Callable[[str], None]) -> None:
        """Names who blocks the loop, once for each time. Owned by the process; ends only by being cancelled."""
        while True:
            await asyncio.sleep(WATCH_S)
            if self._thread is None:
                continue
            turned = asyncio.Event()
            here, asked_at = asyncio.get_running_loop(), time.monotonic()
            self._call(lambda here=here, turned=turned: here.call_soon_threadsafe(turned.set))  # type: ignore[misc]
            try:
                async with asyncio.timeout(BLOCKED_S):
                    await turned.wait()
            except TimeoutError:
                task = asyncio.current_task(self._loop)
                name = task.get_name() if task is not None else "unknown"
                blocked(name)
                log.warning("handler_blocks", handler=name)
                await turned.wait()
                log.warning("handler_blocked", handler=name, seconds=round(time.monotonic() - asked_at, 1))

    async def close(self) -> None:
        """Waits for who tidies up, as long as they may."""
        until = time.monotonic() + CLEANUP_S
        while self._tasks and time.monotonic() < until:
            await asyncio.sleep(0.02)
        if self._thread is None:
            self._loop.close()
        else:
            self._call(self._loop.stop)
            await asyncio.to_thread(self._thread.join, CLOSE_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    def _call(self, call: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # it is closed
            self._loop.call_soon_threadsafe(call)

    def _cancel_late(self, task: asyncio.Task[None]) -> None:
        if not task.done():
            log.warning("handler_cleanup_cut_off", handler=task.get_name(), seconds=CLEANUP_S)
            task.cancel()
