"""One stream on a WebSocket: where its reader stands, and what it waits for. Writes nothing."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from tokenrelay.protocol.reading.feed import Chunk, Format
from tokenrelay.protocol.reading.session import Session
from tokenrelay.server.live import replay
from tokenrelay.server.live.hub import Channel
from tokenrelay.server.timing import RequestTimer

if TYPE_CHECKING:
    from tokenrelay.server.transports.websocket import Socket


class Attachment:
    """A session, and the channel it follows (None: all of it is in the log)."""

    def __init__(
        self, socket: Socket, session: Session, channel: Channel | None, form: Format, start: RequestTimer | None = None
    ) -> None:
        self.session = session
        self.channel = channel
        self.form = form
        self.start = start  # None for a stream that began elsewhere or earlier, and when all of it has been timed
        self.opened_at = session.cursor
        self.page: asyncio.Future[list[Chunk]] | None = None  # None unless it waits for a page of the log
        self.chunks: deque[Chunk] = deque()  # of a page that has come; let go when the client accepts nothing
        self._socket = socket
        self._began_here = start

    def wake(self) -> None:
        self._socket.mark_ready(self)

    def is_stuck(self, now: float) -> bool:
        return self._socket.is_stuck(now)

    def ask(self, page: asyncio.Future[list[Chunk]]) -> None:
        """Wait for it without holding up the socket's other streams."""
        self.page = page
        page.add_done_callback(lambda _: self.wake())

    def let_go(self) -> None:
        """Keep nothing but the cursor: what follows it is read again when the client accepts data again."""
        self.chunks.clear()
        if self.page is not None and self.page.done():
            replay.forget(self.page)
            self.page = None
            self.wake()

    def over(self) -> None:
        """Its stream's end is sent, or nobody here reads it any more."""
        if self._began_here is not None:
            self._began_here.over()
