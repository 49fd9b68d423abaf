"""One reader of one generation: a cursor, and the decision what to do next. Knows no socket, no Redis and no clock.

A session is a cursor, not a queue: whatever its reader lacks is in the feed's window or in the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

from tokenrelay.protocol.reading.feed import MAX_CHUNK_BYTES, Chunk, Feed, Format
from tokenrelay.protocol.store.entries import Entry, is_terminal, join_pieces

HEARTBEAT_S: Final = 15.0
"""Proxies cut at 60 to 100 s of silence; WHATWG section 9.2.7 suggests a comment every 15 s."""

PAGE_ENTRIES: Final = 512
"""How many entries one read of the log asks for at the most."""

PAGE_BYTES: Final = 64 * 1024
"""About how many bytes of the log one read brings: few entries where they are large."""

STUCK_S: Final = 1.0
"""A reader whose write has waited for longer holds nothing but its cursor: no window, no page of the log."""


class Step(Enum):
    """What a session's transport does next."""

    TAKE = "write what the window has"
    READ_LOG = "it stands before the window: read a page of the log"
    WAIT = "it has everything there is"
    CLOSE = "it has the terminal event"


class Session:
    """A reader that stands at `cursor`. Times are seconds of the caller's monotonic clock."""

    def __init__(self, stream_id: str, cursor: int, *, is_compact: bool, now: float) -> None:
        self.stream_id = stream_id
        self.cursor = cursor
        self.is_compact = is_compact
        self.has_ended = False
        self.wrote_at = now
        self.sending_since: float | None = None  # None while no write is under way

    def __repr__(self) -> str:
        return f"<Session {self.stream_id} at {self.cursor}{' ended' if self.has_ended else ''}>"

    def next_step(self, feed: Feed | None) -> Step:
        """Decide. `feed` is None for a generation that had ended when the reader came: all of it is in the log."""
        if self.has_ended:
            return Step.CLOSE
        if feed is None or self.cursor < feed.floor:
            return Step.READ_LOG
        return Step.TAKE if self.cursor < feed.last else Step.WAIT

    def is_behind(self, feed: Feed) -> bool:
        return self.cursor < feed.floor

    def took(self, chunk: Chunk) -> None:
        """The chunk was handed to the socket."""
        self.cursor = chunk.cursor
        self.has_ended = chunk.is_last

    def chunks(self, first_id: int, entries: Sequence[Entry], form: Format) -> list[Chunk]:
        """A page of the log as writes of bounded size; compact if that was asked. The page follows the cursor. What is
        beyond `PAGE_BYTES` is left for the next one.

        Raises LookupError when it does not: entries the reader lacks are no longer in the log.
        """
        if not entries or first_id != self.cursor + 1:
            raise LookupError(f"expected entry {self.cursor + 1}, the log begins at {first_id}")
        numbered = list(enumerate(entries, first_id))
        if self.is_compact:
            numbered = join_pieces(numbered)
        chunks: list[Chunk] = []
        parts: list[bytes] = []
        size = total = 0
        for position, (entry_id, entry) in enumerate(numbered):
            part = form.encode(entry, entry_id, self.stream_id)
            parts.append(part)
            size += len(part)
            total += len(part)
            if size > MAX_CHUNK_BYTES or total > PAGE_BYTES or position == len(numbered) - 1:
                body = form.separator.join(parts)
                chunks.append(Chunk(body, len(parts), entry_id, is_terminal(entry)))
                parts, size = [], 0
            if total > PAGE_BYTES:
                break
        return chunks

    def heartbeat_due(self, now: float, every_s: float = HEARTBEAT_S) -> bool:
        return self.sending_since is None and now - self.wrote_at >= every_s

    def is_stuck(self, now: float) -> bool:
        """True when a write has waited long enough that nothing should be kept for its reader."""
        return self.sending_since is not None and now - self.sending_since >= STUCK_S

    def is_stalled(self, now: float, timeout_s: float) -> bool:
        """True when a write has been waiting for the socket for longer than `timeout_s`."""
        return self.sending_since is not None and now - self.sending_since >= timeout_s
