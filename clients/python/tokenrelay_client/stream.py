"""One generation being read, over as many connections as it takes. Knows no wire: transports do, and `Answer` keeps.

A stream reads on its own from the moment it is made; who iterates it only looks. It is started once, however often the
request has to be sent (Idempotency-Key), and every event counts once, however many connections that takes (cursor).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Literal, TypeAlias

from tokenrelay_client.answer import Answer, Event
from tokenrelay_client.api import DROPPED
from tokenrelay_client.errors import Failed, TokenrelayError, failure_of
from tokenrelay_client.patience import Backoff, Patience, Wait
from tokenrelay_client.transport import Dropped, Ended, Outcome, Request, Said, Transport, TransportName

State: TypeAlias = Literal["connecting", "queued", "streaming", "reconnecting", "done", "failed", "detached"]
OVER: Final = frozenset({"done", "failed", "detached"})


class Stream:
    """Made by a client. Iterate it as often as you like: each loop gives every event from the first on, `(id, data)`.

    A loop ends with the stream; it raises Refused, Failed or Unreachable where that failed, after its last event.
    """

    def __init__(
        self,
        asked: Request,
        transports: Sequence[Transport],
        named: Callable[[TransportName], Transport],
        patience_s: float,
        first_patience_s: float,
    ) -> None:
        self._body = asked.body  # None for one that is resumed
        self._transports = list(transports)  # in the order in which they are tried
        self._named = named
        self._answer = Answer(asked.after)
        self._backoff = Backoff(random.random)
        self._patience = Patience(self._backoff, patience_s, first_patience_s)
        self._connection: asyncio.Future[Outcome] | None = None  # None between two
        self._may_hurry = False  # a pause is under way that we chose ourselves
        self._wants_stop = False
        self._hurry = asyncio.Event()  # ends a pause
        self._news: asyncio.Future[None] | None = None  # done at the next change; None while nobody waits for one
        self._listeners: list[Callable[[], None]] = []
        self.idempotency_key = asked.idempotency_key
        self.stream_id = asked.stream_id  # None until the server has said it
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
    def transport(self) -> TransportName:
        """The one in use, or tried next."""
        return self._transports[0].name

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
                await self._transports[failures % len(self._transports)].cancel(self.stream_id)
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

    def use(self, name: TransportName) -> None:
        """Go on over another transport, from the same cursor, and stay with it. Raises Refused INVALID_REQUEST."""
        transport = self._named(name)
        if self.is_over or self.transport == name:
            return
        self._transports = [transport]
        if self._connection is not None:
            self._connection.cancel()
        elif self._may_hurry:
            self._hurry.set()
        if self.state != "connecting":
            self._show("reconnecting")

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
                outcome = await self._read()
                if self.is_over:
                    return
                if isinstance(outcome, Ended) or self._is_stopped_by(outcome):
                    self._finish("done")
                    return
                if len(self.events) > before:
                    self._patience.reset()
                if outcome is not None:
                    await self._between(outcome)
        except TokenrelayError as error:
            self._finish("failed", error)
        except Exception as error:  # whatever happens: a stream ends, and never hangs
            self._finish("failed", Failed("INTERNAL_ERROR", f"the client failed: {type(error).__name__}: {error}"))

    async def _read(self) -> Outcome | None:
        """One connection, to its end; None where `use` ended it."""
        asked = Request(self.stream_id, self._body, self.idempotency_key, self.last_event_id)
        self._connection = connection = asyncio.ensure_future(self._transports[0].read(asked, self))
        try:
            await asyncio.wait({connection})
        finally:
            self._connection = None
            if not connection.done():
                connection.cancel()
                await asyncio.wait({connection})
        return None if connection.cancelled() else connection.result()

    def _is_stopped_by(self, outcome: Outcome | None) -> bool:
        """It was not begun, and shall not be."""
        return isinstance(outcome, Said) and self._wants_stop and self.stream_id is None

    async def _between(self, outcome: Dropped | Said) -> None:
        """After a connection that was not the last. Raises as `Patience.after` does."""
        if isinstance(outcome, Said):
            self._patience.heard()
        wait = self._patience.after(
            outcome,
            has_id=self.stream_id is not None,
            is_cursor_ours=self._answer.is_cursor_ours,
            has_other=len(self._transports) > 1,
        )
        if isinstance(outcome, Dropped) or outcome.by_socket:
            self._transports.append(self._transports.pop(0))
        self._show("connecting" if self.state == "connecting" else "reconnecting")
        await self._pause(wait)

    async def _pause(self, wait: Wait) -> None:
        self._may_hurry = not wait.is_firm
        with suppress(TimeoutError):
            async with asyncio.timeout(wait.seconds):
                await self._hurry.wait()
        self._may_hurry = False
        self._hurry.clear()

    # -- what a connection tells ---------------------------------------------------------------------------------------

    def opened(self, stream_id: str | None) -> None:
        if self.is_over:
            return
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
