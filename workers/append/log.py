"""One generation's log as its worker writes it: numbers what comes, keeps it to the end, knows what Redis has. Awaits
nothing.

entries   1 2 3 4 5 6 7        kept from the first one of this attempt, so that a tail which Redis lost
acked         └─ 3             (a failover) can be sent again
sent              └─ 5
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from tokenrelay.protocol.store import partitions, scripts
from tokenrelay.protocol.store.scripts import AppendReply, Argument, Claim

_END_NOT_YET: Final = ""


class News(NamedTuple):
    """What Redis says of a generation, in the reply to an append or to a renewal."""

    is_lost: bool = False  # somebody else writes it now, or Redis has forgotten it
    is_cancelled: bool = False  # a stop is wanted
    is_heard: bool | None = None  # whether at least one edge listens; None: it did not say


Hear: TypeAlias = Callable[[News], None]


class Log:
    """The appending side, between a generation and the writer: entries go one way, news comes the other way.

    `on_dirty` is called when there is something to write, `on_news` with every reply of Redis, `on_end` when the end is
    acknowledged."""

    def __init__(
        self,
        claim: Claim,
        retention_ms: int,
        on_news: Hear,
        on_dirty: Callable[[Log], None],
        on_end: Callable[[Log], None] = lambda item: None,  # noqa: ARG005
    ) -> None:
        self.stream_id = claim.stream_id
        self.tag = partitions.tag_of(claim.stream_id)
        self.epoch = claim.epoch
        self._base = claim.last_id  # id of the entry before the first one kept
        self._entries: list[bytes] = []
        self.acked = claim.last_id  # Redis has everything up to here
        self.told_id: int | None = None  # id of the first entry that binds us; None: nobody has been told anything
        self._unacked_bytes = 0
        self._bytes = 0
        self._end_state = _END_NOT_YET
        self._retention_ms = retention_ms
        self._on_news = on_news
        self._on_dirty = on_dirty
        self._on_end = on_end
        self.is_lost = False  # somebody else writes it, or nobody can
        self.is_closed = False  # ended and acknowledged, or no longer ours: nothing is written any more

    def __repr__(self) -> str:
        return f"<Log {self.stream_id}@{self.epoch} acked {self.acked} of {self.last_id}>"

    @property
    def last_id(self) -> int:
        return self._base + len(self._entries)

    @property
    def unacked_bytes(self) -> int:
        return self._unacked_bytes

    @property
    def kept_bytes(self) -> int:
        """Of all that it can send again."""
        return self._bytes

    @property
    def is_awaited(self) -> bool:
        """A reader waits for its first entry, or for the first that binds us."""
        return self.told_id is None or self.acked < self.told_id

    @property
    def is_dirty(self) -> bool:
        return not self.is_closed and self.acked < self.last_id

    @property
    def has_end(self) -> bool:
        return self._end_state != _END_NOT_YET

    def append(self, entry: bytes) -> None:
        """The next entry. Not after the end."""
        if self._end_state:
            raise RuntimeError("nothing follows the end of a log")
        self._entries.append(entry)
        self._unacked_bytes += len(entry)
        self._bytes += len(entry)
        self._on_dirty(self)

    def tell(self) -> None:
        """The next entry binds us: no other attempt may begin anew after it."""
        if self.told_id is None:
            self.told_id = self.last_id + 1

    def end(self, entry: bytes, state: str) -> None:
        """The last entry, and the state in which it leaves the generation."""
        self.append(entry)
        self._end_state = state

    def next_batch(self) -> tuple[list[Argument], int]:
        """Arguments of the append script for what is not acknowledged, and how many entries they carry."""
        start = self.acked - self._base
        batch: list[bytes] = []
        size = 0
        for entry in self._entries[start : start + scripts.MAX_BATCH_ENTRIES]:
            size += len(entry)
            if batch and size > scripts.MAX_BATCH_BYTES:
                break
            batch.append(entry)
        is_last = self.acked + len(batch) == self.last_id
        state = self._end_state if is_last else _END_NOT_YET
        arguments = scripts.append(
            self.stream_id,
            self.epoch,
            self.acked + 1,
            batch,
            end_state=state,
            retention_ms=self._retention_ms,
            tells=self.told_id is not None and self.acked < self.told_id <= self.acked + len(batch),
        )
        return arguments, len(batch)

    def take_reply(self, reply: AppendReply) -> None:
        """What the script said of a batch."""
        match reply.outcome:
            case "ok" | "hole":
                if reply.last_id < self._base:
                    self.lose()  # Redis lost what another attempt wrote; nobody has that any more
                    return
                self._acknowledge(min(reply.last_id, self.last_id))
                if reply.outcome == "ok" and self.acked == self.last_id and self.has_end:
                    self.is_closed = True
                    self._on_end(self)
                self._on_news(
                    News(
                        is_cancelled=reply.cancel_wanted and not self.has_end,
                        is_heard=reply.listeners > 0 if reply.listeners >= 0 and reply.outcome == "ok" else None,
                    )
                )
            case "fenced" | "gone":
                self.lose()

    def _acknowledge(self, last_id: int) -> None:
        low, high = sorted((self.acked - self._base, last_id - self._base))
        moved = sum(len(entry) for entry in self._entries[low:high])
        self._unacked_bytes += -moved if last_id > self.acked else moved
        self.acked = last_id

    def doubt_end(self) -> bool:
        """Another server answers for it now, which may lack the end: it is sent again, and what else is missing then.
        False: it is not ours to write."""
        if not self.is_closed or not self.has_end or self.is_lost or self.acked < self.last_id:
            return False
        self.is_closed = False
        self._acknowledge(self.last_id - 1)
        return True

    def lose(self) -> None:
        """It cannot be written any more."""
        self.is_closed = self.is_lost = True
        self._on_news(News(is_lost=True))
