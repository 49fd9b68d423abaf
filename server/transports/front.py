"""One stream on one response in another client's dialect. Knows how to write, not what the dialect says.

Such a client cannot come back to the stream by itself, and takes a clean end before the stream's end for the whole
answer. So a drain gives it most of its window and then breaks the connection.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.reading.feed import Chunk, Feed, Format
from tokenrelay.protocol.reading.session import STUCK_S, Session
from tokenrelay.protocol.store.entries import Entry, is_terminal
from tokenrelay.server.edge import Edge
from tokenrelay.server.http import Call
from tokenrelay.server.live import replay
from tokenrelay.server.live.channel import Channel
from tokenrelay.server.net import peer
from tokenrelay.server.timing import RequestTimer
from tokenrelay.server.transports.sse import SseResponse

HEAD: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)
"""Without `Connection: close`: with it Node 20 reports a connection that breaks as a clean end."""


class Writing(Protocol):
    """How a dialect writes a stream. `form` where an entry's bytes depend on the entry alone, so that readers share
    them; else None, and `take` is told every entry in order."""

    form: Format | None
    headers: Mapping[str, str]

    def opening(self) -> bytes:
        """What is written before the first entry."""
        ...

    def take(self, entry: Entry, entry_id: int, /) -> bytes: ...

    def let_go(self) -> bool:
        """The client accepts nothing: keep little. True where it then has to be told all entries again, from the first
        one, and writes nothing for those that it was told before."""
        ...

    def heartbeat(self, cursor: int, /) -> bytes:
        """`cursor`: of the last entry that the reader has; 0: none."""
        ...

    def refusal(self, error: TokenrelayError) -> bytes:
        """What ends a stream whose log is gone."""
        ...


class FrontResponse(SseResponse):
    """A reader in another dialect."""

    can_return = False
    head = HEAD

    def __init__(
        self,
        edge: Edge,
        call: Call,
        session: Session,
        channel: Channel | None,
        writing: Writing,
        timer: RequestTimer | None = None,
    ) -> None:
        super().__init__(edge, call, session, channel, timer)
        self._writing = writing
        self._leave_at = math.inf  # it is not sent elsewhere for its age
        self._let_go_after_s = STUCK_S  # twice as long each time: a slow reader must not have its log folded all day
        if writing.form is not None:
            self.form = writing.form

    def __repr__(self) -> str:
        return f"<FrontResponse {self.session!r}>"

    def tick(self, now: float) -> None:
        super().tick(now)
        since = self.session.sending_since
        if since is None or now - since < self._let_go_after_s or self.session.has_ended:
            return
        if self._writing.let_go():
            self._let_go_after_s *= 2
            self.session.cursor = 0

    def _headers(self) -> dict[str, str]:
        return {"x-stream-id": self.session.stream_id, **self._writing.headers}

    def _opening(self) -> bytes:
        return self._writing.opening()

    def _heartbeat(self) -> bytes:
        return self._writing.heartbeat(self.session.cursor)

    def _refusal(self, error: TokenrelayError) -> bytes:
        return self._writing.refusal(error)

    @property
    def _is_shared(self) -> bool:
        return self._writing.form is not None

    def _next_of(self, feed: Feed) -> Chunk | None:
        if self._writing.form is not None:
            return super()._next_of(feed)
        cursor = self.session.cursor
        found = feed.entries_after(cursor)
        return self._chunk_of(list(enumerate(found, cursor + 1))) if found else None

    async def _read_page(self) -> Sequence[Any]:
        if self._writing.form is not None:
            return await super()._read_page()
        page = await replay.shared(self._edge.replays.entries(self.session))
        return [[pair] for pair in page]

    def _chunk_of(self, item: Any) -> Chunk:
        """Made only when it is written: a page that is let go must not have been told to the dialect."""
        if isinstance(item, Chunk):
            return item
        body = b"".join(self._writing.take(entry, entry_id) for entry_id, entry in item)
        last_id, last = item[-1]
        return Chunk(body, len(item), last_id, is_terminal(last))

    async def _end(self) -> None:
        if self.session.has_ended or self._cause == "log_lost":
            if not self._is_gone and not self._is_whole:
                await self._call.write(b"", more=False)
        else:
            peer.abort(self._call.send)
