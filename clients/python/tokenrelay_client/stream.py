"""One generation being read, over as many connections as it takes. Knows no wire: transports do, and `Answer` keeps.

A stream reads on its own from the moment it is made; who iterates it only looks. It is started once, however often the
request has to be sent (Idempotency-Key), and every event counts once, however many connections that takes (cursor).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from tokenrelay_client import stop
from tokenrelay_client.answer import Answer
from tokenrelay_client.errors import Failed, TokenrelayError, failure_of
from tokenrelay_client.events import Event
from tokenrelay_client.progress import Facts, Progress, State
from tokenrelay_client.retry import Backoff, RetryPolicy, Wait
from tokenrelay_client.transport import Dropped, Ended, Outcome, Request, Said, Transport, TransportName


class Surroundings(NamedTuple):
    """What a stream shares with those of the same client."""

    named: Callable[[TransportName], Transport]
    all_ways: Sequence[Transport]  # by which a stop may go
    keep: Callable[[Stream, asyncio.Task[None]], None]  # a stop under way: it outlives the stream's reader
    hint: str  # what to look at when no server has ever answered


class Stream(Facts):
    """Made by a client. Iterate it as often as you like: each loop gives every event from the first on, `(id, data)`.

    A loop ends with the stream; it raises Refused, Failed or Unreachable where that failed, after its last event.
    """

    def __init__(
        self,
        asked: Request,
        transports: Sequence[Transport],
        around: Surroundings,
        patience_s: float,
        first_patience_s: float,
    ) -> None:
        self._answer = Answer(asked.after)
        super().__init__(Progress(self._answer, asked.stream_id, asked.idempotency_key, transports[0].name))
        self._body = asked.body  # None for one that is resumed
        self._transports = list(transports)  # in the order in which they are tried
        self._around = around
        self._backoff = Backoff(random.random)
        self._patience_s = patience_s
        self._retry = RetryPolicy(self._backoff, patience_s, first_patience_s, around.hint)
        self._began_at = time.monotonic()
        self._connection: asyncio.Future[Outcome] | None = None  # None between two
        self._may_hurry = False  # a pause is under way that we chose ourselves
        self._stopping: asyncio.Task[None] | None = None  # None: nobody has asked for a stop
        self._lost: TokenrelayError | None = None  # why its id never came, of one that was left
        self._hurry = asyncio.Event()  # ends a pause
        self._news: asyncio.Future[None] | None = None  # done at the next change; None while nobody waits for one
        self._listeners: list[Callable[[], None]] = []
        self._task = asyncio.create_task(self._run())

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

        Returns once the server knows. The stop lives on if the wait for it is given up or the stream is detached, and a
        start that is not answered yet is stopped when it is. Raises Refused, Unreachable.
        """
        if self._stopping is None or self._stopping.done():
            self._stopping = asyncio.create_task(self._stop())
            self._stopping.add_done_callback(_look_at)
            self._around.keep(self, self._stopping)
        await asyncio.shield(self._stopping)

    def detach(self) -> None:
        """Stop reading; the generation goes on and can be resumed."""
        if not self.is_over:
            self._finish("detached")
            if not self._is_needed:
                self._task.cancel()

    def use(self, name: TransportName) -> None:
        """Go on over another transport, from the same cursor, and stay with it. Raises Refused INVALID_REQUEST."""
        transport = self._around.named(name)
        if self.is_over or self.transport == name:
            return
        self._try_first([transport])
        if self._connection is not None:
            self._connection.cancel()
        elif self._may_hurry:
            self._hurry.set()
        if self.state != "connecting":
            self._show("reconnecting")

    def retry_now(self) -> None:
        """Do not wait any longer for the next try."""
        if self._progress.retry_at is not None:
            self._hurry.set()

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call back after every change of text, events or state. Gives what ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    async def close(self) -> None:
        """Detach, and wait until the connection is closed; one that a stop needs is left to it."""
        self.detach()
        if not self._is_needed:
            await asyncio.gather(self._task, return_exceptions=True)

    async def abandon(self) -> None:
        """Close it whatever is under way."""
        tasks = [task for task in (self._task, self._stopping) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- reading -------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while not self._is_settled:
                before = len(self.events)
                outcome = await self._read()
                if isinstance(outcome, Ended) or self._is_stopped_by(outcome):
                    self._finish("done")  # unless it was left, or is over already
                    return
                if len(self.events) > before:
                    self._retry.reset()
                if outcome is not None and not self._is_settled:
                    await self._between(outcome)
        except TokenrelayError as error:
            self._finish("failed", error)
        except Exception as error:  # whatever happens: a stream ends, and never hangs
            self._finish("failed", Failed("INTERNAL_ERROR", f"the client failed: {type(error).__name__}: {error}"))
        finally:
            self._wake()

    @property
    def _is_needed(self) -> bool:
        """Nobody reads it any more, but a stop wants to know its id."""
        return self._stopping is not None and not self._stopping.done() and self.stream_id is None

    @property
    def _is_settled(self) -> bool:
        return self.is_over and not self._is_needed

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
        return isinstance(outcome, Said) and self._stopping is not None and self.stream_id is None

    async def _between(self, outcome: Dropped | Said) -> None:
        """After a connection that was not the last. Raises as `RetryPolicy.after` does."""
        if isinstance(outcome, Said):
            self._retry.heard()
        wait = self._retry.after(
            outcome,
            has_id=self.stream_id is not None,
            is_cursor_ours=self._answer.is_cursor_ours,
            has_other=len(self._transports) > 1,
            elapsed_s=time.monotonic() - self._began_at,
        )
        if isinstance(outcome, Dropped) or outcome.by_socket:
            self._try_first(self._transports[1:] + self._transports[:1])
        self._progress.attempts = self._retry.failures
        self._progress.retry_at = time.monotonic() + wait.seconds
        self._show("connecting" if self.state == "connecting" else "reconnecting")
        await self._pause(wait)

    async def _pause(self, wait: Wait) -> None:
        self._may_hurry = not wait.is_firm
        with suppress(TimeoutError):
            async with asyncio.timeout(wait.seconds):
                await self._hurry.wait()
        self._may_hurry = False
        self._progress.retry_at = None
        self._hurry.clear()

    def _try_first(self, transports: list[Transport]) -> None:
        self._transports = transports
        self._progress.transport = transports[0].name

    # -- stopping ------------------------------------------------------------------------------------------------------

    async def _stop(self) -> None:
        self._hurry.set()
        if self.stream_id is None and self.state == "detached" and (self._task.cancelling() or self._task.done()):
            # It was left before its id had come. The same Idempotency-Key leads to it.
            await asyncio.wait({self._task})
            self._task = asyncio.create_task(self._run())
        while self.stream_id is None and not self._task.done():
            await self._change()
        if self.stream_id is None:  # it never began, unless nobody could be asked
            error = self.error or self._lost
            if error is not None and error.code == "UNREACHABLE":
                raise error
            return
        await stop.stop(self.stream_id, self._ways, self._has_ended, self._rest, self._backoff, self._patience_s)

    def _ways(self) -> list[Transport]:
        """Those in use first, then every other one: a stop takes any way there is."""
        return [*self._transports, *(way for way in self._around.all_ways if way not in self._transports)]

    def _has_ended(self) -> bool:
        return self._answer.end is not None or self.state == "done"

    async def _rest(self, seconds: float) -> None:
        """A pause that ends with the stream."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._has_ended():
                    await self._change()

    # -- what a connection tells ---------------------------------------------------------------------------------------

    def opened(self, stream_id: str | None) -> None:
        self._learn(stream_id)
        if self.is_over:
            return
        self._retry.heard()
        self._show("streaming" if self._answer.has_started else "queued")

    def take(self, event_id: int | None, data: dict[str, Any]) -> None:
        self._learn(data.get("stream_id"))
        if self.is_over or not self._answer.take(event_id, data):
            return
        self._progress.attempts = 0
        end = self._answer.end
        if end is None:
            self._show("streaming" if self._answer.has_started else "queued")
        elif "error_code" in end:
            self._finish("failed", failure_of(end))
        else:
            self._finish("done")

    def advise(self, retry_s: float) -> None:
        self._backoff.advise(retry_s)

    def _learn(self, stream_id: Any) -> None:
        if self.stream_id is None and isinstance(stream_id, str):
            self._progress.stream_id = stream_id
            if self.is_over:  # it was read on for its id alone
                self._wake()
                self._task.cancel()

    # -- who waits -----------------------------------------------------------------------------------------------------

    async def _change(self) -> None:
        if self._news is None:
            self._news = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._news)  # one who stops waiting must not end it for the others

    def _finish(self, state: State, error: TokenrelayError | None = None) -> None:
        if self.is_over:  # it was left, and read on for its id alone
            self._lost = error
            return
        self._progress.error = error
        self._show(state)

    def _show(self, state: State) -> None:
        self._progress.state = state
        self._wake()
        for listener in tuple(self._listeners):
            listener()

    def _wake(self) -> None:
        news, self._news = self._news, None
        if news is not None and not news.done():
            news.set_result(None)


def _look_at(task: asyncio.Task[None]) -> None:
    """Nobody may wait for it any more: what it failed with is then nobody's."""
    if not task.cancelled():
        task.exception()
