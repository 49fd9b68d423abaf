"""One generation being read, over as many connections as it takes. Knows no wire: `sse` does, and `Answer` keeps.

A stream reads on its own from the moment it is made; who iterates it only looks. It is started once, however often the
request has to be sent (Idempotency-Key), and every event counts once, however many connections that takes (cursor).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from typing import Any, Final, Literal, TypeAlias

from clients.python.answer import Answer, Event
from clients.python.errors import Failed, TokenrelayError, failure_of
from clients.python.patience import Backoff, Ended, Patience, Said
from clients.python.sse import DROPPED, Http, Request

State: TypeAlias = Literal["connecting", "queued", "streaming", "reconnecting", "done", "failed", "detached"]
OVER: Final = frozenset({"done", "failed", "detached"})


class Stream:
    """Made by a client. Iterate it as often as you like: each loop gives every event from the first on, `(id, data)`.

    A loop ends with the stream; it raises Refused, Failed or Unreachable where that failed, after its last event.
    """

    def __init__(
        self,
        http: Http,
        body: Mapping[str, Any] | None,
        stream_id: str | None,
        after: int,
        idempotency_key: str,
        patience_s: float,
        first_patience_s: float,
    ) -> None:
        self._http = http
        self._body = body  # None for one that is resumed
        self._answer = Answer(after)
        self._backoff = Backoff(random.random)
        self._patience = Patience(self._backoff, patience_s, first_patience_s)
        self._wants_stop = False
        self._hurry = asyncio.Event()  # ends a pause
        self._news: asyncio.Future[None] | None = None  # done at the next change; None while nobody waits for one
        self._listeners: list[Callable[[], None]] = []
        self.idempotency_key = idempotency_key
        self.stream_id = stream_id  # None until the server has said it
        self.state: State = "connecting"
        self.error: TokenrelayError | None = None  # None unless `state` is `failed`
        self._task = asyncio.create_task(self._run())

    def __repr__(self) -> str:
        return f"<Stream {self.stream_id} {self.state} at {self.last_event_id}>"

    @property
    def text(self) -> str:
        """The model's text so far."""
        return self._answer.text

    @property
    def events(self) -> list[Event]:
        """Every event so far. Grows; do not change it."""
        return self._answer.events

    @property
    def last_event_id(self) -> int:
        """Where to resume; 0 before any event."""
        return self._answer.last_event_id

    @property
    def is_over(self) -> bool:
        return self.state in OVER

    async def __aiter__(self) -> AsyncGenerator[Event, None]:
        position = 0
        while True:
            is_over = self.is_over  # asked first: what came before the end is given before it
            while position < len(self.events):
                yield self.events[position]
                position += 1
            if is_over:
                break
            if not self.is_over and position == len(self.events):
                await self._change()
        if self.error is not None:
            raise self.error

    async def completion(self) -> dict[str, Any] | None:
        """The completion event's object, once it is there; None where the stream is not read to its end.

        Raises Refused, Failed, Unreachable.
        """
        while not self.is_over:
            await self._change()
        if self.error is not None:
            raise self.error
        return self._answer.end if self.state == "done" else None

    async def cancel(self) -> None:
        """Stop the generation for good, for all who read it. The stream then ends by its own last event.

        Returns once the server knows; waits for the id of a stream whose start is not answered yet. Raises Refused.
        """
        self._wants_stop = True
        self._hurry.set()
        while self.stream_id is None and not self.is_over:
            await self._change()
        failures = 0
        while self.stream_id is not None and self.state not in ("done", "failed"):
            try:
                await self._http.cancel(self.stream_id)
                return
            except TokenrelayError as error:
                if not error.retryable:
                    raise
            except DROPPED:
                pass  # the server is away; the wish stands
            with suppress(TimeoutError):
                async with asyncio.timeout(self._backoff.delay_s(failures)):
                    await self.completion()
            failures += 1

    def detach(self) -> None:
        """Stop reading; the generation goes on and can be resumed."""
        if not self.is_over:
            self._finish("detached")
            self._task.cancel()

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call back after every change of text, events or state. Gives what ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    async def close(self) -> None:
        """Detach, and wait until the connection is closed."""
        self.detach()
        await asyncio.gather(self._task, return_exceptions=True)

    # -- reading -------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while True:
                before = len(self.events)
                outcome = await self._http.read(self._asked, self)
                if self.is_over:
                    return
                if isinstance(outcome, Ended):
                    self._finish("done")
                    return
                if len(self.events) > before:
                    self._patience.reset()
                if isinstance(outcome, Said):
                    self._patience.heard()
                    if self._wants_stop and self.stream_id is None:
                        self._finish("done")
                        return
                wait_s = self._patience.after(
                    outcome, has_id=self.stream_id is not None, is_cursor_ours=self._answer.is_cursor_ours
                )
                self._show("connecting" if self.state == "connecting" else "reconnecting")
                await self._pause(wait_s)
        except TokenrelayError as error:
            self._finish("failed", error)
        except Exception as error:  # whatever happens: a stream ends, and never hangs
            self._finish("failed", Failed("INTERNAL_ERROR", f"the client failed: {type(error).__name__}: {error}"))

    @property
    def _asked(self) -> Request:
        return Request(self.stream_id, self._body, self.idempotency_key, self.last_event_id)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        self._hurry.clear()

    # -- what a connection tells ---------------------------------------------------------------------------------------

    def opened(self, stream_id: str | None) -> None:
        self._patience.heard()
        self.stream_id = self.stream_id or stream_id
        self._show("streaming" if self._answer.has_started else "queued")

    def take(self, event_id: int | None, data: dict[str, Any]) -> None:
        if self.is_over or not self._answer.take(event_id, data):
            return
        self.stream_id = self.stream_id or data.get("stream_id")
        end = self._answer.end
        if end is None:
            self._show("streaming" if self._answer.has_started else "queued")
        elif "error_code" in end:
            self._finish("failed", failure_of(end))
        else:
            self._finish("done")

    def advise(self, retry_s: float) -> None:
        self._backoff.advise(retry_s)

    # -- who waits -----------------------------------------------------------------------------------------------------

    async def _change(self) -> None:
        if self._news is None:
            self._news = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._news)  # one who stops waiting must not end it for the others

    def _finish(self, state: State, error: TokenrelayError | None = None) -> None:
        self.error = error
        self._show(state)

    def _show(self, state: State) -> None:
        self.state = state
        news, self._news = self._news, None
        if news is not None and not news.done():
            news.set_result(None)
        for listener in tuple(self._listeners):
            listener()
