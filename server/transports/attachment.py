"""One stream on a WebSocket: where its reader stands, and what it waits for. Writes nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tokenrelay.protocol.reading.feed import Chunk, Format
from tokenrelay.protocol.reading.session import Session
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
        self._socket = socket
        self._began_here = start

    def wake(self) -> None:
        self._socket.mark_ready(self)

    def ask(self, page: asyncio.Future[list[Chunk]]) -> None:
        """Wait for it without holding up the socket's other streams."""
        self.page = page
        page.add_done_callback(lambda _: self.wake())

    def over(self) -> None:
        """Its stream's end is sent, or nobody here reads it any more."""
        if self._began_here is not None:
            self._began_here.over()
