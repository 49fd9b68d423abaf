"""SSE: one session written to one HTTP response. Knows how to write, not what to read."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import structlog

from tokenrelay.protocol.errors import TokenrelayError, unreadable
from tokenrelay.protocol.reading.feed import Chunk, Feed
from tokenrelay.protocol.reading.session import Session, Step
from tokenrelay.protocol.store import entries
from tokenrelay.protocol.wire import event_json, formats, sse
from tokenrelay.server import drain
from tokenrelay.server.edge import Edge
from tokenrelay.server.http import Call
from tokenrelay.server.live import replay
from tokenrelay.server.live.channel import Channel
from tokenrelay.server.metrics import SAMPLED
from tokenrelay.server.net import peer
from tokenrelay.server.net.direct import Direct
from tokenrelay.server.net.one_write import one_write
from tokenrelay.server.net.refusal import SSE_HEADERS
from tokenrelay.server.timing import RequestTimer

RETRY_MS: Final = (500, 2_500)
"""Between these an EventSource is told to wait before it reconnects; one draw a connection, so that crowds spread."""

log = structlog.get_logger()


class SseResponse:
    """A reader of one stream on one response. `channel` is None for a stream that had ended when it came."""

    can_return = True
    form = formats.SSE
    head: Sequence[tuple[bytes, bytes]] = SSE_HEADERS

    def __init__(
        self, edge: Edge, call: Call, session: Session, channel: Channel | None, start: RequestTimer | None = None
    ) -> None:
        self.session = session
        self._start = start  # None for a stream that began elsewhere or earlier
        self._opened_at = session.cursor
        self._cause = "client"  # why it ends, unless its end is sent
        self._edge = edge
        self._call = call
        self._channel = channel
        self._loop = asyncio.get_running_loop()  # asking for it costs a system call (Python 3.11)
        self._waiter: asyncio.Future[None] | None = None  # None while it is not waiting
        self._direct: Direct | None = None  # None: every write goes through the pump
        self._was_woken = False
        self._is_gone = False  # the client has closed
        self._is_closing = False  # the edge wants the client elsewhere
        self._is_whole = False  # the end of the body is written
        self._leave_at = drain.end_of_age(edge.settings.max_connection_age_s, time.monotonic())
        self._heartbeat_due = False
        self._page: deque[Any] = deque()  # read and not yet written; let go when the client accepts nothing

    def __repr__(self) -> str:
        return f"<SseResponse {self.session!r}>"

    # -- what the hub and the edge say
    # -----------------------------------------------------------------------------------

    def wake(self) -> None:
        if self._direct is not None and self._write_directly(self._direct):
            return
        self._was_woken = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _write_directly(self, direct: Direct) -> bool:
        """What the pump would write next, without waking it: half of what a token costs here. Only where the pump waits
        for nothing but events, and where its write would not wait; all else (beginning, end, heartbeats, a log that is
        gone, a reader that is behind or slow) is the pump's. True when the reader then has everything."""
        channel, waiter = self._channel, self._waiter
        if channel is None or waiter is None or waiter.done() or self._was_woken:
            return False
        if self._is_gone or self._is_closing or self._heartbeat_due or channel.is_lost:
            return False
        feed, session = channel.feed, self.session
        if feed.has_ended or session.next_step(feed) is not Step.TAKE or not direct.is_free:
            return False
        try:
            chunk = self._next_of(feed)
            if chunk is None:
                return False
            direct.write(chunk.body)
        except Exception:
            return False  # the pump comes upon it again, in a task of its own
        session.took(chunk)
        session.wrote_at = time.monotonic()
        if self._start is not None or not chunk.cursor & SAMPLED:
            self._note(feed, chunk.cursor, channel.heard_at)
        return chunk.cursor == feed.last

    def is_stuck(self, now: float) -> bool:
        return self.session.is_stuck(now)

    def tick(self, now: float) -> None:
        if self.is_stuck(now):
            self._page.clear()  # read again when it moves again
        if self.session.is_stalled(now, self._edge.settings.send_timeout_s):
            self._edge.metrics.send_timeouts.labels("sse").inc()
            self._cause = "send_timeout"
            log.info("send_timeout", stream_id=self.session.stream_id, transport="sse")
            peer.abort(self._call.send)
        elif self._call.identity is not None and self._edge.auth.has_ended(self._call.identity):
            self.close_soon()
        elif self.session.heartbeat_due(now, self._edge.settings.heartbeat_s):
            self._heartbeat_due = True
            self.wake()
        elif now >= self._leave_at:
            self.close_soon()

    def look(self) -> None:
        if peer.has_vanished(self._call.send, self._edge.settings.heartbeat_s):
            self._edge.metrics.vanished.labels("sse").inc()
            self._cause = "vanished"
            log.info("reader_vanished", transport="sse", stream_id=self.session.stream_id)
            peer.abort(self._call.send)

    def close_soon(self) -> None:
        """End the response between two events; the client comes back with its cursor, after a drain elsewhere."""
        self._is_closing = True
        self._cause = "closed_by_edge"
        self.wake()

    # -- the response
    # ----------------------------------------------------------------------------------------------------

    async def run(self, first: bytes = b"") -> None:
        """Write everything from the cursor to the end, or to whatever ends the connection. `first` leaves with the
        head. Joins the channel, and leaves it."""
        if self._channel is None:
            await self._run(first)
            return
        self._edge.hub.join(self._channel, self)
        try:
            await self._run(first)
        finally:
            self._edge.hub.leave(self._channel, self)

    async def _run(self, first: bytes) -> None:
        stream_id = self.session.stream_id
        if self._call.method == "HEAD":
            await self._call.start(200, self._headers(), *self.head)
            await self._call.write(b"", more=False)
            return
        with one_write(self._call.send):
            await self._call.start(200, self._headers(), *self.head)
            peer.hold_little(self._call.send)
            await self._write(self._opening() + first)
        if self._is_shared:
            self._direct = Direct.of(self._call.send)
        watcher = asyncio.create_task(self._watch())
        self._edge.enter(self)
        gauge = self._edge.metrics.sessions.labels("sse")
        gauge.inc()
        try:
            try:
                await self._pump()
            except entries.CorruptEntry as error:
                log.error("log_corrupt", stream_id=stream_id, error=str(error))
                await self._write_lost(is_unreadable=True)
            await self._end()
        finally:
            gauge.dec()
            feed = None if self._channel is None else self._channel.feed
            self._edge.metrics.session_over(self.session, feed, "sse", self._cause, self._opened_at)
            self._edge.connections.discard(self)
            watcher.cancel()

    # -- what other dialects say otherwise -----------------------------------------------------------------------------

    def _headers(self) -> dict[str, str]:
        stream_id = self.session.stream_id
        return {"x-stream-id": stream_id, "location": f"/api/streams/{stream_id}"}

    def _opening(self) -> bytes:
        return sse.encode_retry(random.randint(*RETRY_MS))  # noqa: S311

    def _heartbeat(self) -> bytes:
        return sse.HEARTBEAT

    def _refusal(self, error: TokenrelayError) -> bytes:
        return sse.encode_frame(event_json.to_json(error.event_data(self._call.request_id)))

    @property
    def _is_shared(self) -> bool:
        """Its bytes are a function of the entries alone: making them changes nothing."""
        return True

    def _next_of(self, feed: Feed) -> Chunk | None:
        """What follows the cursor in the window."""
        return feed.after(self.session.cursor, self.form)

    async def _read_page(self) -> Sequence[Any]:
        """A page of the log, as what `_chunk_of` takes."""
        return await replay.shared(self._edge.replays.page(self.session, self.form))

    def _chunk_of(self, item: Any) -> Chunk:
        chunk: Chunk = item
        return chunk

    async def _end(self) -> None:
        """The last of the response, after the stream's end or where the edge wants the client elsewhere."""
        if self._is_closing and not self.session.has_ended:
            await self._write(sse.encode_retry(drain.come_back_ms()))
        if not self._is_gone and not self._is_whole:
            await self._call.write(b"", more=False)

    # -- reading and writing -------------------------------------------------------------------------------------------

    async def _pump(self) -> None:
        channel = self._channel
        feed = None if channel is None else channel.feed
        while not self._is_gone and not self._is_closing:
            step = self.session.next_step(feed)
            if step in (Step.TAKE, Step.READ_LOG) and peer.is_full(self._call.send):
                await self._until_writable()  # it may be behind the window then
            elif step is Step.TAKE and channel is not None and feed is not None:
                chunk = self._next_of(feed)
                if chunk is not None:
                    reached_at = channel.heard_at
                    if chunk.is_last and self._start is not None:
                        chunk = self._start.told(chunk, feed, self.form, reached_at)
                    self.session.took(chunk)
                    await self._write(chunk.body, more=not chunk.is_last)
                    if self._start is not None or not chunk.cursor & SAMPLED:
                        self._note(feed, chunk.cursor, reached_at)
            elif step is Step.CLOSE:
                return
            elif channel is not None and channel.is_lost:
                await self._write_lost(channel.is_unreadable)
                return
            elif step is Step.READ_LOG:
                if not await self._replay():
                    return
            else:
                await self._wait()
                if self._heartbeat_due:
                    self._heartbeat_due = False
                    await self._write(self._heartbeat())

    async def _replay(self) -> bool:
        """One page of the log; False when the rest of it is not there."""
        try:
            self._page.extend(await self._read_page())
        except TokenrelayError:
            self._heartbeat_due = True  # Redis is away; stay, and try again
            await self._write(self._heartbeat())
            await asyncio.sleep(0.5)
            return True
        except LookupError:
            await self._write_lost()
            return False
        while self._page:
            if peer.is_full(self._call.send):
                await self._until_writable()  # the page may be let go meanwhile
                continue
            chunk = self._chunk_of(self._page.popleft())
            self.session.took(chunk)
            await self._write(chunk.body, more=not chunk.is_last)
            if self._is_gone:
                return False
        return True

    async def _write_lost(self, is_unreadable: bool = False) -> None:
        """What the reader lacks is no longer anywhere, or cannot be read: say so; this end is not in the log and has no
        id."""
        self._cause = "log_lost"
        lost = unreadable() if is_unreadable else TokenrelayError("STREAM_EXPIRED", "what follows is no longer stored")
        await self._write(self._refusal(lost))

    async def _until_writable(self) -> None:
        self.session.sending_since = time.monotonic()
        await peer.until_writable(self._call.send)
        self.session.sending_since = None

    async def _write(self, body: bytes, *, more: bool = True) -> None:
        self.session.sending_since = time.monotonic()
        await self._call.write(body, more=more)
        self._is_whole = not more
        self.session.sending_since = None
        self.session.wrote_at = time.monotonic()

    def _note(self, feed: Feed, cursor: int, reached_at: float) -> None:
        """Written: is it the first token, is it one of those whose way through this edge is timed?"""
        metrics, now = self._edge.metrics, self.session.wrote_at
        if self._start is not None and self._start.is_waiting and feed.has_output(cursor):
            self._start.sent(metrics, "sse", reached_at, now)
            if not self._start.wants_timing:
                self._start = None
        if not cursor & SAMPLED:
            metrics.delivery.labels("sse").observe(now - reached_at)

    async def _wait(self) -> None:
        if not self._was_woken:
            self._waiter = self._loop.create_future()
            await self._waiter
            self._waiter = None
        self._was_woken = False

    async def _watch(self) -> None:
        """After a disconnect `send` returns in silence; only `receive` says it."""
        while (await self._call.receive())["type"] != "http.disconnect":
            pass
        self._is_gone = True
        self.wake()
