"""The same client for code that does not await: a thread runs the one of `client`, everybody else waits.

Ctrl-C raises KeyboardInterrupt where the caller waits and costs nothing: the stream reads on, a new loop over it gives
every event again, and `cancel` or leaving the `with` block ends it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, Final, TypeVar

from tokenrelay_client.answer import Event
from tokenrelay_client.client import PATIENCE_S, Client
from tokenrelay_client.errors import TokenrelayError
from tokenrelay_client.stream import State, Stream
from tokenrelay_client.transport import Choice, TransportName

_T = TypeVar("_T")

_LOOK_S: Final = 0.5
"""A waiting thread looks up so often: on some systems only then can Ctrl-C reach it."""


class SyncClient:
    """`with SyncClient(url, key) as client: …`. Everything means what it means in `Client`; threads may share it."""

    def __init__(
        self,
        url: str,
        key: str | Callable[[], str] | None = None,
        *,
        transport: Choice = "auto",
        patience_s: float = PATIENCE_S,
        first_patience_s: float | None = None,
    ) -> None:
        self._client = Client(url, key, transport=transport, patience_s=patience_s, first_patience_s=first_patience_s)
        self._thread: _LoopThread | None = None  # None outside the block

    def __enter__(self) -> SyncClient:
        self._thread = _LoopThread()
        self._thread.run(self._client.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            try:
                thread.run(self._client.__aexit__())
            finally:
                thread.close()

    def chat(
        self, body: str | Mapping[str, Any], *, idempotency_key: str | None = None, transport: Choice | None = None
    ) -> SyncStream:
        """Start a generation. `body` as in `POST /api/chat`; a text is its `message`. Raises TypeError, ValueError."""

        async def make() -> Stream:
            return self._client.chat(body, idempotency_key=idempotency_key, transport=transport)

        return SyncStream(self._running.run(make()), self._running)

    def resume(self, stream_id: str, after: int | str | None = 0, *, transport: Choice | None = None) -> SyncStream:
        """Read a generation that is there already. Raises Refused INVALID_CURSOR."""

        async def make() -> Stream:
            return self._client.resume(stream_id, after, transport=transport)

        return SyncStream(self._running.run(make()), self._running)

    def models(self) -> list[dict[str, Any]]:
        """The rows of `GET /api/models`."""
        return self._running.run(self._client.models())

    def stop(self, stream_id: str) -> str:
        """Stop a generation by its id; gives its state."""
        return self._running.run(self._client.stop(stream_id))

    @property
    def _running(self) -> _LoopThread:
        if self._thread is None:
            raise RuntimeError("a client is used inside its `with` block")
        return self._thread


class SyncStream:
    """One generation being read. Iterate it as often as you like; each loop gives every event from the first on."""

    def __init__(self, stream: Stream, thread: _LoopThread) -> None:
        self._stream = stream
        self._thread = thread
        self._changed = threading.Condition()
        stream.subscribe(self._tell)

    def __repr__(self) -> str:
        return f"<Sync{repr(self._stream)[1:]}"

    @property
    def text(self) -> str:
        """The model's text so far."""
        return "".join(data.get("token", "") for _, data in self.events)

    @property
    def events(self) -> list[Event]:
        """Every event so far."""
        return self._stream.events[:]

    @property
    def state(self) -> State:
        return self._stream.state

    @property
    def is_over(self) -> bool:
        return self._stream.is_over

    @property
    def error(self) -> TokenrelayError | None:
        return self._stream.error

    @property
    def stream_id(self) -> str | None:
        """None until the server has said it."""
        return self._stream.stream_id

    @property
    def last_event_id(self) -> int:
        """Where to resume; 0 before any event."""
        return self._stream.last_event_id

    @property
    def transport(self) -> TransportName:
        """The one in use, or tried next."""
        return self._stream.transport

    @property
    def idempotency_key(self) -> str:
        return self._stream.idempotency_key

    def __iter__(self) -> Iterator[Event]:
        events, position = self._stream.events, 0
        while True:
            is_over = self.is_over  # asked first: what came before the end is given before it
            while position < len(events):
                yield events[position]
                position += 1
            if is_over:
                break
            with self._changed:
                while position == len(events) and not self.is_over:
                    self._changed.wait(_LOOK_S)
        if self.error is not None:
            raise self.error

    def completion(self) -> dict[str, Any] | None:
        """The completion event's object; None where the stream is not read to its end. Raises as a loop does."""
        with self._changed:
            while not self.is_over:
                self._changed.wait(_LOOK_S)
        if self.error is not None:
            raise self.error
        last = self.events[-1][1] if self.events else {}
        return last if last.get("done") else None

    def cancel(self) -> None:
        """Stop the generation for good; returns once the server knows. Raises Refused."""
        self._thread.run(self._stream.cancel())

    def use(self, name: TransportName) -> None:
        """Go on over another transport, from the same cursor, and stay with it. Raises Refused INVALID_REQUEST."""

        async def use() -> None:
            self._stream.use(name)

        if not self.is_over:
            self._thread.run(use())

    def detach(self) -> None:
        """Stop reading; the generation goes on and can be resumed."""

        async def detach() -> None:
            await self._stream.close()

        if not self.is_over:
            self._thread.run(detach())

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()


class _LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # A daemon: who forgets to leave the block can still end the program.
        self._thread = threading.Thread(target=self._loop.run_forever, name="tokenrelay", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Its result, waited for. A KeyboardInterrupt in between cancels it."""
        if threading.current_thread() is self._thread or not self._thread.is_alive():
            work.close()
            raise RuntimeError("the client is closed, or this is its own thread")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            while True:
                try:
                    return future.result(_LOOK_S)
                except TimeoutError:
                    if future.done():
                        return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
