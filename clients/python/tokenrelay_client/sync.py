"""The same client for code that does not await: a thread runs the one of `client`, everybody else waits.

Ctrl-C raises KeyboardInterrupt where the caller waits and costs nothing: the stream reads on, a new loop over it gives
every event again, and `cancel` or leaving the `with` block ends it.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, Final, TypeVar, Unpack

from tokenrelay_client.client import Client
from tokenrelay_client.environment import Key
from tokenrelay_client.events import Event
from tokenrelay_client.options import Options
from tokenrelay_client.progress import Facts
from tokenrelay_client.stream import Stream
from tokenrelay_client.transport import Choice, TransportName

_T = TypeVar("_T")

_LOOK_S: Final = 0.5
"""A waiting thread looks up so often: on some systems only then can Ctrl-C reach it."""


class SyncClient:
    """`with SyncClient(url, key) as client: …`. Everything means what it means in `Client`; threads may share it. A
    process that was forked makes a client of its own."""

    def __init__(self, url: str | None = None, key: Key | None = None, **options: Unpack[Options]) -> None:
        self._client = Client(url, key, **options)
        self._thread: _LoopThread | None = None  # None outside the block

    def __enter__(self) -> SyncClient:
        self._thread = _LoopThread()
        self._thread.run(self._client.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        thread, self._thread = self._thread, None
        if thread is None or not thread.is_of_this_process:  # after a fork the parent closes what is the parent's
            return
        try:
            thread.run(self._client.__aexit__())
        finally:
            thread.close()

    def chat(
        self, body: str | Mapping[str, Any], *, idempotency_key: str | None = None, transport: Choice | None = None
    ) -> SyncStream:
        """Start a generation. `body` as in `POST /api/chat`; a text is its `message`. Raises TypeError, ValueError."""
        return self._stream(lambda: self._client.chat(body, idempotency_key=idempotency_key, transport=transport))

    def resume(self, stream_id: str, after: int | str | None = 0, *, transport: Choice | None = None) -> SyncStream:
        """Read a generation that is there already. Raises Refused INVALID_CURSOR."""
        return self._stream(lambda: self._client.resume(stream_id, after, transport=transport))

    def models(self) -> list[dict[str, Any]]:
        """The rows of `GET /api/models`."""
        return self._running.run(self._client.models())

    def stop(self, stream_id: str) -> str:
        """Stop a generation by its id; gives its state."""
        return self._running.run(self._client.stop(stream_id))

    def _stream(self, make: Callable[[], Stream]) -> SyncStream:
        thread = self._running
        return SyncStream(thread.call(make), thread)

    @property
    def _running(self) -> _LoopThread:
        if self._thread is None:
            raise RuntimeError("a client is used inside its `with` block")
        return self._thread


class SyncStream(Facts):
    """One generation being read. Iterate it as often as you like; each loop gives every event from the first on."""

    def __init__(self, stream: Stream, thread: _LoopThread) -> None:
        super().__init__(stream._progress)  # noqa: SLF001  (the two tell the same of one stream)
        self._stream = stream
        self._thread = thread
        self._changed = threading.Condition()
        stream.subscribe(self._tell)

    @property
    def text(self) -> str:
        """The model's text so far."""
        return "".join(event.data.get("token", "") for event in self.events)

    @property
    def events(self) -> list[Event]:
        """Every event so far: a copy, since another thread adds to the stream's own."""
        return self._stream.events[:]

    def __iter__(self) -> Iterator[Event]:
        events, position = self._stream.events, 0
        while True:
            is_over = self.is_over  # asked first: what came before the end is given before it
            while position < len(events):
                yield events[position]
                position += 1
            if is_over:
                break
            known = position
            self._wait(lambda: self.is_over or known < len(events))  # noqa: B023  (called before `known` changes)
        if self.error is not None:
            raise self.error

    def completion(self) -> dict[str, Any] | None:
        """The completion event's object; None where the stream is not read to its end. Raises as a loop does."""
        self._wait(lambda: self.is_over)
        if self.error is not None:
            raise self.error
        last = self.events[-1].data if self.events else {}
        return last if last.get("done") else None

    def cancel(self) -> None:
        """Stop the generation for good; returns once the server knows. Raises Refused, Unreachable."""
        self._thread.run(self._stream.cancel())

    def use(self, name: TransportName) -> None:
        """Go on over another transport, from the same cursor, and stay with it. Raises Refused INVALID_REQUEST."""
        if not self.is_over:
            self._thread.call(lambda: self._stream.use(name))

    def retry_now(self) -> None:
        """Do not wait any longer for the next try."""
        if not self.is_over:
            self._thread.call(self._stream.retry_now)

    def detach(self) -> None:
        """Stop reading; the generation goes on and can be resumed."""
        if not self.is_over:
            self._thread.run(self._stream.close())

    def _wait(self, is_there: Callable[[], bool]) -> None:
        if is_there():
            return
        self._thread.check()  # before the lock: after a fork it may be held by a thread that is not here
        with self._changed:
            while not is_there():
                self._changed.wait(_LOOK_S)
                if not is_there():
                    self._thread.check()

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()


class _LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._pid = os.getpid()
        # A daemon: who forgets to leave the block can still end the program.
        self._thread = threading.Thread(target=self._loop.run_forever, name="tokenrelay", daemon=True)
        self._thread.start()

    @property
    def is_of_this_process(self) -> bool:
        return self._pid == os.getpid()

    def check(self) -> None:
        """Raises RuntimeError: nobody would do what is waited for."""
        if not self.is_of_this_process:
            raise RuntimeError(
                f"this client was made in process {self._pid}, before the fork, and its thread is not here: "
                "make a client in each process"
            )
        if not self._thread.is_alive():
            raise RuntimeError("the client is closed")
        if threading.current_thread() is self._thread:
            raise RuntimeError("this is the client's own thread, which nothing may wait in")

    def call(self, work: Callable[[], _T]) -> _T:
        """What it returns, done in the loop."""

        async def do() -> _T:
            return work()

        return self.run(do())

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Its result, waited for. A KeyboardInterrupt in between cancels it."""
        try:
            self.check()
        except RuntimeError:
            work.close()
            raise
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            while True:
                try:
                    return future.result(_LOOK_S)
                except TimeoutError:
                    if future.done():
                        return future.result()
                    self.check()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
