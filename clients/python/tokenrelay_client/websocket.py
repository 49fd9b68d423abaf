"""One WebSocket that carries many streams. Knows the messages of protocol/README.md, section 5; decides no retry.

What it is told is said in order by one task, what it hears goes to the readers by another; both end with the socket.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from typing import Any, Final

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from tokenrelay_client.api import DROPPED, Api, NotOurs, words_of
from tokenrelay_client.attachment import Attachment, messages_of, ref_of, seconds_of
from tokenrelay_client.errors import FINAL_CLOSES, Refused, TokenrelayError, refusal_of
from tokenrelay_client.transport import Dropped, Ended, Outcome, Reader, Request, Said

MAX_STREAMS: Final = 256
""""256 streams can be attached to one socket." """

LINGER_S: Final = 2.0
"""An idle socket stays a moment for the next question."""

FIRST_WORD_TIMEOUT_S: Final = 5.0
"""Open is not usable: some middleboxes pass the handshake and then no frame. The server answers a start at once."""

ANSWER_TIMEOUT_S: Final = 15.0
"""For `started` on a socket that has been heard already: a start may wait for Redis."""

RETIRE_S: Final = 5.0
""""The socket closes next": one that stays open is closed by us."""


class Socket:
    """Opens at once. `gone` is told when nothing is left of it."""

    def __init__(self, api: Api, gone: Callable[[Socket], None]) -> None:
        self._api = api
        self._gone = gone
        self._outbox: list[tuple[int | None, str]] = []  # what waits to be said, with its ref; one for each wish
        self._something = asyncio.Event()
        self._asked: dict[int, Attachment] = {}  # until `started`
        self._attached: dict[str, Attachment] = {}
        self._questions: dict[int, asyncio.Future[None]] = {}  # of cancels
        self._orphans: dict[int, str] = {}  # ref → key of a start that was let go of before its answer
        self._refs = itertools.count(1)
        self._after_s: float | None = None  # the server's advice for after the close
        self._idle: asyncio.TimerHandle | None = None  # ends it; None while somebody needs it
        self.is_usable = True  # new streams may go on it
        self.is_suspect = False  # it came to nothing, and not because no server was there
        self._has_heard = False  # a frame has come
        self._task = asyncio.create_task(self._run())

    def __repr__(self) -> str:
        return f"<Socket {len(self._attached)} streams | {len(self._asked)} asked for>"

    @property
    def _all(self) -> list[Attachment]:
        return [*self._asked.values(), *self._attached.values()]

    def has_room_for(self, request: Request) -> bool:
        """Room for another stream, and none here that the server would take for the same."""
        everyone = self._all
        is_known = any(each.is_of(request.stream_id, request.idempotency_key) for each in everyone)
        return self.is_usable and len(everyone) < MAX_STREAMS and not is_known

    def carries(self, stream_id: str) -> bool:
        return stream_id in self._attached

    async def read(self, request: Request, reader: Reader) -> Outcome:
        attachment = Attachment(next(self._refs), request, reader)
        self._asked[attachment.ref] = attachment
        self._say(attachment.text, attachment.ref)
        try:
            return await self._answer_of(attachment)
        except asyncio.CancelledError:
            self._let_go(attachment)
            raise
        finally:
            self._forget(attachment)

    async def _answer_of(self, attachment: Attachment) -> Outcome:
        """How it ends. One whose question is not answered in time is let go of: the reader asks elsewhere."""
        await asyncio.wait({attachment.outcome}, timeout=ANSWER_TIMEOUT_S)
        if not attachment.outcome.done() and not attachment.was_open:
            self._let_go(attachment)
            attachment.settle(Dropped("the socket gave no answer in time"))
        return await attachment.outcome

    async def cancel(self, stream_id: str) -> None:
        """Returns once the server has obeyed: it takes messages in order, so the pong comes after. Raises Refused,
        ConnectionError."""
        ref = next(self._refs)
        self._questions[ref] = asyncio.get_running_loop().create_future()
        self._say(json.dumps({"type": "cancel", "ref": ref, "stream_id": stream_id}), ref)
        self._say(json.dumps({"type": "ping", "ref": ref}), ref)
        try:
            await self._questions[ref]
        finally:
            self._questions.pop(ref, None)
            self._linger_if_idle()

    async def close(self) -> None:
        """The client is done."""
        self._leave()
        await asyncio.gather(self._task, return_exceptions=True)

    # -- the connection ------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        how: Outcome | Exception = Dropped("it was let go of")
        try:
            how = await self._talk()
        except TokenrelayError as error:  # the handshake was refused
            self.is_suspect = True
            how = Said(error, by_socket=True)
        except NotOurs as error:
            self.is_suspect = True
            how = Dropped(words_of(error))
        except DROPPED as error:
            # No server was there: that says nothing of sockets.
            self.is_suspect = isinstance(error, TimeoutError) or not isinstance(error, OSError)
            how = Dropped(words_of(error))
        except Exception as error:  # a fault, of the function that gives the key, say: who waits has to know
            how = error
        finally:
            self._lose(how)

    async def _talk(self) -> Outcome:
        wire = await self._api.socket()
        writing = asyncio.create_task(self._write(wire))
        try:
            async with asyncio.timeout(FIRST_WORD_TIMEOUT_S) as first:
                while (messages := messages_of(await wire.recv())) is not None:
                    first.reschedule(None)
                    self._has_heard = True
                    for message in messages:
                        self._hear(message)
            return Dropped("a frame that is no message")  # nothing that such a server says can be trusted
        except ConnectionClosed as closed:
            self.is_suspect = not self._has_heard
            return self._closed(None if closed.rcvd is None else closed.rcvd.code)
        except TimeoutError:
            self.is_suspect = True
            return Dropped("the socket opened, and no word came over it")
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)  # where it failed, reading has ended too
            await wire.close()

    async def _write(self, wire: ClientConnection) -> None:
        while True:
            while self._outbox:
                await wire.send(self._outbox.pop(0)[1])
            self._something.clear()
            await self._something.wait()

    def _say(self, text: str, ref: int | None = None) -> None:
        self._stay()
        self._outbox.append((ref, text))
        self._something.set()

    def _closed(self, code: int | None) -> Outcome:
        """ "A client comes back and resumes after every close but" the server's own last word."""
        final = FINAL_CLOSES.get(code or 0)
        if final is None:
            return Dropped(f"closed with {code}" if code else "the connection is gone")
        error = Refused(final, f"the server closed the socket ({code})", retryable=False)
        if code != 1009:
            return Said(error, by_socket=True)
        # One question too large ends the socket of all: the largest that was not answered is to blame.
        if self._asked:
            largest = max(self._asked.values(), key=lambda each: len(each.text))
            self._settle(largest, Said(error, by_socket=True))  # a proxy's limit may be lower than the server's
        return Dropped("closed with 1009")

    def _leave(self) -> None:
        self.is_usable = False
        self._task.cancel()

    def _lose(self, how: Outcome | Exception) -> None:
        self.is_usable = False
        self._stay()
        for attachment in self._all:
            if isinstance(how, Dropped):
                after_s = how.after_s or self._after_s
                self._settle(attachment, how._replace(after_s=after_s, was_open=attachment.was_open))
            else:
                self._settle(attachment, how)
        for question in self._questions.values():
            if not question.done():
                question.set_exception(how.error if isinstance(how, Said) else ConnectionError("the socket is gone"))
        self._gone(self)

    # -- what the server says ------------------------------------------------------------------------------------------

    def _hear(self, message: dict[str, Any]) -> None:
        match message.get("type"):
            case "event":
                self._event(message)
            case "started":
                self._started(message)
            case "error":
                self._error(message)
            case "pong":
                self._answered(ref_of(message), None)
            case "reconnect":
                self.is_usable = False
                self._after_s = seconds_of(message.get("after_ms"))
                asyncio.get_running_loop().call_later(RETIRE_S, self._task.cancel)
            case _:
                pass  # "must pass over messages it does not know"

    def _started(self, message: dict[str, Any]) -> None:
        ref, stream_id = ref_of(message), str(message.get("stream_id"))
        attachment = self._asked.pop(ref, None)
        if attachment is None:
            self._drop_orphan(ref, stream_id)
            return
        # The same Idempotency-Key led to a stream that another reader has here: the server let go of that one.
        if (other := self._attached.get(stream_id)) is not None:
            self._settle(other, Dropped("another reader took its place", was_open=True))
        attachment.stream_id = stream_id
        attachment.was_open = True
        self._attached[stream_id] = attachment
        self._tell(attachment, attachment.reader.opened, stream_id)
        if message.get("done"):
            self._settle(attachment, Ended())

    def _drop_orphan(self, ref: int, stream_id: str) -> None:
        key = self._orphans.pop(ref, None)
        if key is not None and not any(each.is_of(stream_id, key) for each in self._all):
            self._say(json.dumps({"type": "detach", "stream_id": stream_id}))
            self._linger_if_idle()

    def _event(self, message: dict[str, Any]) -> None:
        """Those of a stream whose `started` has not come belong to an earlier attachment, with another cursor."""
        attachment = self._attached.get(str(message.get("stream_id")))
        event_id, data = message.get("id"), message.get("data")
        if attachment is None or not isinstance(data, dict):
            return
        self._tell(attachment, attachment.reader.take, event_id if isinstance(event_id, int) else None, data)
        if data.get("done"):
            self._settle(attachment, Ended())

    def _error(self, message: dict[str, Any]) -> None:
        ref, stream_id = ref_of(message), str(message.get("stream_id"))
        error = refusal_of({name: value for name, value in message.items() if name not in ("type", "ref")}, None)
        self._orphans.pop(ref, None)
        self._answered(ref, error)
        attachment = self._attached.get(stream_id) if message.get("ref") is None else self._asked.get(ref)
        if attachment is not None:
            self._settle(attachment, Said(error))

    def _answered(self, ref: int, error: Refused | None) -> None:
        question = self._questions.get(ref)
        if question is None or question.done():
            return
        if error is None:
            question.set_result(None)
        else:
            question.set_exception(error)

    def _tell(self, attachment: Attachment, tell: Callable[..., None], *facts: Any) -> None:
        try:
            tell(*facts)
        except Exception as error:  # a reader's fault is its own, not that of those who share the socket
            self._settle(attachment, error)

    # -- letting go ----------------------------------------------------------------------------------------------------

    def _let_go(self, attachment: Attachment) -> None:
        """Its reader has gone: what was not said yet is not said any more, what was answered is detached."""
        ref, stream_id = attachment.ref, attachment.stream_id
        self._outbox = [(other, text) for other, text in self._outbox if other != ref]
        if ref not in self._asked and self._attached.get(stream_id or "") is not attachment:
            return
        if stream_id is not None:
            self._say(json.dumps({"type": "detach", "stream_id": stream_id}))
        else:
            self._orphans[ref] = attachment.request.idempotency_key

    def _settle(self, attachment: Attachment, how: Outcome | Exception) -> None:
        self._forget(attachment)
        attachment.settle(how)

    def _forget(self, attachment: Attachment) -> None:
        self._asked.pop(attachment.ref, None)
        if self._attached.get(attachment.stream_id or "") is attachment:
            del self._attached[attachment.stream_id or ""]
        self._linger_if_idle()

    def _linger_if_idle(self) -> None:
        if self.is_usable and not self._all and not self._questions:
            self._stay()
            self._idle = asyncio.get_running_loop().call_later(LINGER_S, self._leave)

    def _stay(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
