"""A WebSocket: many sessions on one socket, read and written by two loops. Knows how to write, not what to read."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Final

import structlog
from starlette.types import Receive, Send

from tokenrelay.protocol.errors import TokenrelayError, unreadable
from tokenrelay.protocol.reading.feed import MAX_CHUNK_BYTES
from tokenrelay.protocol.reading.session import STUCK_S, Session
from tokenrelay.protocol.store import entries
from tokenrelay.protocol.store.context import Context, for_stream
from tokenrelay.protocol.wire import websocket
from tokenrelay.protocol.wire.websocket import Close, Dialect
from tokenrelay.server import drain
from tokenrelay.server.access import bodies
from tokenrelay.server.access.auth import Identity
from tokenrelay.server.access.limits import BYTES_A_MESSAGE, Place, too_many_messages
from tokenrelay.server.edge import Edge
from tokenrelay.server.generations import begin, find, resume
from tokenrelay.server.live import replay
from tokenrelay.server.net import peer
from tokenrelay.server.net.lean_event import LeanEvent
from tokenrelay.server.timing import RequestTimer
from tokenrelay.server.transports.attachment import Attachment, Frame

MAX_STREAMS: Final = 256
"""Streams attached to one socket at once."""

MAX_OUTBOX: Final = 1_024
"""Answers waiting on one socket; a client that asks more without reading is closed."""

_TOO_BIG: Final = "a message is larger than the server takes"

log = structlog.get_logger()


class Socket:
    """One client's connection. Reads commands in order; writes answers before events, events in frames of bounded
    size."""

    can_return = True

    def __init__(self, edge: Edge, dialect: Dialect, identity: Identity, send: Send, context: Context) -> None:
        self._edge = edge
        self._given = context  # what the handshake said, for all streams that start here
        self._dialect = dialect
        self._identity = identity
        self._send = send
        self._attachments: dict[str, Attachment] = {}
        self._ready: dict[Attachment, None] = {}  # in the order in which they became so
        self._outbox: list[bytes] = []
        self._something = LeanEvent()
        self._messages = edge.limits.messages(asyncio.get_running_loop().time())
        self._closing: tuple[Close, str] | None = None  # set once: why the socket is to be closed
        self._is_read = False  # nothing more will come: the client has gone, or it broke the rules
        self._sending_since: float | None = None
        self._leave_at = drain.end_of_age(edge.settings.max_connection_age_s, time.monotonic())
        self._cause = "client"  # why sessions end with the socket
        self._timed = Frame(edge.metrics)

    def __repr__(self) -> str:
        return f"<Socket {self._dialect.subprotocol} | {len(self._attachments)} streams>"

    # -- what the hub and the edge say ---------------------------------------------------------------------------------

    def mark_ready(self, attachment: Attachment) -> None:
        self._ready[attachment] = None
        self._something.set()

    def is_stuck(self, now: float) -> bool:
        """True when a frame has waited long enough that nothing should be kept for this socket's readers."""
        return self._sending_since is not None and now - self._sending_since >= STUCK_S

    def tick(self, now: float) -> None:
        since = self._sending_since
        if self.is_stuck(now):
            for attachment in self._attachments.values():
                attachment.let_go()
        if since is not None and now - since >= self._edge.settings.send_timeout_s:
            self._sending_since = None
            self._edge.metrics.send_timeouts.labels("ws").inc()
            self._cause = "send_timeout"
            log.info("send_timeout", transport="ws", streams=len(self._attachments))
            peer.abort(self._send)
        elif self._edge.auth.has_ended(self._identity):
            self._close(
                Close.UNAUTHORIZED, "what opened this socket is not valid any more; connect with fresh credentials"
            )
        elif now >= self._leave_at:
            self.close_soon()

    def look(self) -> None:
        if peer.has_vanished(self._send, self._edge.settings.heartbeat_s):
            self._edge.metrics.vanished.labels("ws").inc()
            self._cause = "vanished"
            log.info("reader_vanished", transport="ws", streams=len(self._attachments))
            peer.abort(self._send)

    def on_read_done(self, _: asyncio.Task[None]) -> None:
        """`read` has ended: what is to be said yet is said, then `write` ends."""
        self._is_read = True
        self._something.set()

    def close_soon(self) -> None:
        """Advise, then close: what follows is read over the next connection."""
        if self._closing is None:
            self._say(websocket.message(self._dialect, "reconnect", after_ms=drain.come_back_ms()))
            self._close(Close.RESTART, "come back over a new connection")

    def _close(self, code: Close, reason: str) -> None:
        self._closing = self._closing or (code, reason)
        self._cause = "closed_by_edge"
        self._something.set()

    def _say(self, message: bytes) -> None:
        self._outbox.append(message)
        if len(self._outbox) > MAX_OUTBOX:
            self._close(Close.POLICY, "too many answers unread")
        self._something.set()

    # -- reading -------------------------------------------------------------------------------------------------------

    async def read(self, receive: Receive) -> None:
        """Take commands until the client is gone or breaks the rules."""
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            try:
                await self._read_frame(message["bytes"] if text is None else text)
            except websocket.BadFrame as error:
                self._close(error.close, error.reason)
                return
            del message, text  # an idle socket does not keep its last frame

    async def _read_frame(self, frame: str | bytes) -> None:
        """Raises BadFrame."""
        if len(frame) > BYTES_A_MESSAGE and bodies.may_have_parts(frame):
            with self._edge.limits.large_bodies.place(self._identity.owner) as place:
                await self._read_large(frame, place)
            return
        if len(frame) > self._edge.settings.max_body_bytes:
            raise websocket.BadFrame(Close.TOO_BIG, _TOO_BIG)
        # Reading a large one costs what many small ones cost: it is refused unread.
        if len(frame) > BYTES_A_MESSAGE and not self._may_say(None, len(frame) // BYTES_A_MESSAGE):
            return
        for command in websocket.parse_frame(frame, self._dialect):
            await self._obey_if_may(command)

    async def _read_large(self, frame: str | bytes, place: Place) -> None:
        """One that may be large by its parts, which are not counted: what is beside them is. Raises BadFrame."""
        settings = self._edge.settings
        try:
            if len(frame) > settings.max_body_bytes:
                place.take()
        except TokenrelayError as error:
            self._refuse(error)
            return
        commands = await bodies.commands(frame, self._dialect, settings)
        rest = bodies.rest_of(frame, commands, settings)
        if rest > settings.max_body_bytes:
            raise websocket.BadFrame(Close.TOO_BIG, _TOO_BIG)
        if rest > BYTES_A_MESSAGE and not self._may_say(None, rest // BYTES_A_MESSAGE):
            return
        del frame
        for command in commands:
            await self._obey_if_may(command)

    async def _obey_if_may(self, command: websocket.Command) -> None:
        if self._may_say(command.ref, 1):
            await self._obey(command)

    def _may_say(self, ref: str | int | None, count: int) -> bool:
        """False: too much at once; said to the client, and at last the socket is closed."""
        if self._messages.take(asyncio.get_running_loop().time(), count):
            return True
        if self._messages.is_flooded:
            self._close(Close.POLICY, "too many messages")
        self._refuse(too_many_messages(self._messages), ref)
        return False

    def _refuse(self, error: TokenrelayError, ref: str | int | None = None) -> None:
        self._edge.refused(error, "ws", self._given.request_id, self._identity)
        self._say(websocket.error_message(self._dialect, error, ref))

    async def _obey(self, command: websocket.Command) -> None:
        stream_id = getattr(command, "stream_id", None)
        try:
            self._edge.auth.raise_if_ended(self._identity)  # a client that reads nothing is not closed at once
            match command:
                case websocket.Start():
                    await self._start(command)
                case websocket.Resume():
                    await self._resume(command)
                case websocket.Cancel():
                    found = await find(self._edge, self._identity, command.stream_id)
                    if not found.has_ended:
                        self._identity.raise_if_limited()
                        self._edge.metrics.cancels.labels("ws").inc()
                        await self._edge.jobs.cancel(found)
                case websocket.Detach():
                    self._detach(command.stream_id, "detached")
                case websocket.Ping():
                    self._say(websocket.message(self._dialect, "pong", ref=command.ref))
                case websocket.Bad():
                    raise command.error
        except TokenrelayError as error:
            self._edge.refused(error, "ws", self._given.request_id, self._identity)
            self._say(websocket.error_message(self._dialect, error, command.ref, stream_id))
        except Exception:
            log.exception("command_failed", command=type(command).__name__)
            self._say(websocket.error_message(self._dialect, TokenrelayError("INTERNAL_ERROR"), command.ref, stream_id))

    async def _start(self, command: websocket.Start) -> None:
        self._raise_if_full()
        timer = RequestTimer(self._edge.tracing, for_stream(self._given, secrets.token_hex(8)), time.monotonic())
        try:
            stream_id, channel = await begin(
                self._edge, self._identity, command.body, command.idempotency_key, timer, "ws"
            )
        except TokenrelayError as error:
            timer.over(error.code)
            raise
        self._edge.metrics.started.labels("ws").inc()
        if channel is None:
            timer.over()
            await self._resume(websocket.Resume(command.ref, stream_id, 0, is_exact=False))
            return
        session = Session(stream_id, 0, is_compact=True, now=time.monotonic())
        self._attach(Attachment(self, session, channel, self._dialect.events, timer), command.ref)

    async def _resume(self, command: websocket.Resume) -> None:
        stream_id = command.stream_id
        if stream_id not in self._attachments:
            self._raise_if_full()
        reading = await resume(
            self._edge, self._identity, stream_id, command.after, is_compact=not command.is_exact, transport="ws"
        )
        self._detach(stream_id, "detached")
        if reading is None:
            self._say(websocket.message(self._dialect, "started", ref=command.ref, stream_id=stream_id, done=True))
            return
        self._attach(Attachment(self, reading.session, reading.channel, self._dialect.events), command.ref)

    def _raise_if_full(self) -> None:
        if len(self._attachments) >= MAX_STREAMS:
            raise TokenrelayError("RATE_LIMIT", f"a socket carries at most {MAX_STREAMS} streams", retry_after=1)

    def _attach(self, attachment: Attachment, ref: str | int | None) -> None:
        stream_id = attachment.session.stream_id
        if attachment.channel is not None:
            self._edge.hub.join(attachment.channel, attachment)
        self._attachments[stream_id] = attachment
        self._say(websocket.message(self._dialect, "started", ref=ref, stream_id=stream_id))
        self.mark_ready(attachment)

    def _detach(self, stream_id: str, cause: str) -> None:
        attachment = self._attachments.pop(stream_id, None)
        if attachment is not None:
            self._ready.pop(attachment, None)
            attachment.over()
            feed = None if attachment.channel is None else attachment.channel.feed
            self._edge.metrics.session_over(attachment.session, feed, "ws", cause, attachment.opened_at)
            if attachment.page is not None:
                replay.forget(attachment.page)
            if attachment.channel is not None:
                self._edge.hub.leave(attachment.channel, attachment)

    def detach_all(self) -> None:
        for stream_id in list(self._attachments):
            self._detach(stream_id, self._cause)

    # -- writing -------------------------------------------------------------------------------------------------------

    async def write(self) -> None:
        """Send what there is until the socket is to be closed, then close it."""
        while True:
            await self._something.wait()
            self._something.clear()
            # One that is to be closed gets its answers still; a stream may have events without end.
            while self._outbox or (self._ready and self._closing is None and not self._is_read):
                await self._write_frame()
                if self._ready:
                    await asyncio.sleep(0)  # sending need not wait: other sockets have their turn all the same
            if self._closing is not None:
                code, reason = self._closing
                self._sending_since = time.monotonic()  # this too may wait for a client that takes nothing
                await self._send({"type": "websocket.close", "code": int(code), "reason": reason})
                return
            if self._is_read:
                return

    async def _write_frame(self) -> None:
        """Answers first, then the events of those that are ready, up to the size of a chunk; made when the client
        accepts them."""
        if peer.is_full(self._send):
            self._sending_since = time.monotonic()
            await peer.until_writable(self._send)
            self._sending_since = None
        bodies, self._outbox = self._outbox, []
        count = len(bodies)
        size = sum(map(len, bodies))
        while self._ready and size < MAX_CHUNK_BYTES and self._closing is None:
            attachment = next(iter(self._ready))
            del self._ready[attachment]
            for body, number in self._take(attachment):
                bodies.append(body)
                count += number
                size += len(body)
        if not bodies:
            return
        frame = websocket.frame(self._dialect, bodies, count)
        bodies.clear()  # a client that accepts nothing holds one copy, not two
        self._sending_since = time.monotonic()
        await self._send({"type": "websocket.send", "bytes" if isinstance(frame, bytes) else "text": frame})
        self._sending_since = None
        self._timed.written()

    def _take(self, attachment: Attachment) -> list[tuple[bytes, int]]:
        """What one stream has for its session now; puts it back among the ready if there may be more."""
        session = attachment.session
        if self._attachments.get(session.stream_id) is not attachment:
            return []
        try:
            chunk = attachment.next_chunk(self._edge.replays, self._timed)
        except TokenrelayError:
            # Redis is away: try again in a moment.
            asyncio.get_running_loop().call_later(0.5, attachment.wake)
            return []
        except LookupError:
            return self._lost(attachment, TokenrelayError("STREAM_EXPIRED", "what follows is no longer stored"))
        except entries.CorruptEntry as error:
            log.error("log_corrupt", stream_id=session.stream_id, error=str(error))
            return self._lost(attachment, unreadable())
        if chunk is None:
            return []
        session.took(chunk)
        if session.has_ended:
            self._detach(session.stream_id, "client")
        elif self._attachments.get(session.stream_id) is attachment:
            self.mark_ready(attachment)
        return [(chunk.body, chunk.count)]

    def _lost(self, attachment: Attachment, error: TokenrelayError) -> list[tuple[bytes, int]]:
        stream_id = attachment.session.stream_id
        self._detach(stream_id, "log_lost")
        return [(websocket.error_message(self._dialect, error, None, stream_id), 1)]
