"""The recent part of one log as one edge holds it: without gaps, encoded once per format. Knows no Redis and no reader.

    log   1 2 3 4 5 6 7 8 9        entries 6…9 are the window, floor = 5, last = 9
                  └─ floor  └─ last
A publication with entry 10 is news, one with 9 is known, one that begins at 11 is a gap: read the log after 9.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final

import msgspec

from tokenrelay.protocol.store.entries import OUTPUT_TAGS, THINKING, TOKEN, Entry, is_terminal

MAX_WINDOW_ENTRIES: Final = 1024
MAX_WINDOW_BYTES: Final = 512 * 1024
MAX_HELD_ENTRIES: Final = 4096
MAX_CHUNK_BYTES: Final = 16 * 1024
"""What one socket write takes at the most, one large event excepted. A stalled reader costs about two of them: one in
its transport, one that waits for its turn."""

STARTED_ID: Final = 1
"""What every log begins with, unless it ends before a worker took it."""

TRIM_EVERY: Final = 64
"""Entries that may gather before the window looks who has them: a look costs time for each reader."""

TRIM_BYTES: Final = 32 * 1024
"""So do bytes: a window of large entries is looked at sooner."""

ENTRY_BYTES: Final = 240
"""What an entry weighs beside its text on CPython 3.11: a list of four, its time, its model's name, its place here."""


class Offer(Enum):
    """What an offered publication turned out to be."""

    NEWS = "the window grew"
    KNOWN = "nothing new"
    GAP = "something before it is missing: read the log"


class Format(msgspec.Struct, frozen=True):
    """How an entry looks on one kind of connection. `encode` takes (entry, id, stream id)."""

    name: str
    encode: Callable[[Entry, int, str], bytes]
    separator: bytes = b""


class Chunk(msgspec.Struct, frozen=True):
    """Consecutive events, encoded and joined: `count` of them, the last with id `cursor`."""

    body: bytes
    count: int
    cursor: int
    is_last: bool


class Feed:
    """The window of one generation. Unanchored at first: what is offered is held until the log's last id is known."""

    def __init__(self, stream_id: str) -> None:
        self.stream_id = stream_id
        self.floor = 0  # id of the entry just before the window
        self.wanted = 0  # highest id heard of; more than `last` while a gap is open
        self.is_anchored = False
        self._first_output: int | None = None  # id of the first entry that is part of the answer; None: none yet
        self._entries: list[Entry] = []
        self._bytes = 0  # of the entries and of what they were encoded to, as they lie in memory
        self._looked_bytes = 0  # of those, what was left by the last look at who has them
        self._encoded: dict[str, list[bytes | None]] = {}  # format → as many slots as entries
        self._memo: dict[
            str, tuple[int, Chunk]
        ] = {}  # format → (cursor, what follows it): viewers mostly stand together
        self._held: list[tuple[int, Sequence[Entry]]] = []  # offered before the anchor
        self._held_entries = 0

    def __repr__(self) -> str:
        state = "ended" if self.has_ended else "gap" if self.has_gap else "live"
        return f"<Feed {self.stream_id} {self.floor}…{self.last} {state}>"

    @property
    def last(self) -> int:
        """Id of the newest entry of the window; what a reader who has it lacks nothing of."""
        return self.floor + len(self._entries)

    @property
    def weight(self) -> int:
        """Bytes that the window takes in memory."""
        return self._bytes

    @property
    def has_gap(self) -> bool:
        return self.is_anchored and self.wanted > self.last

    @property
    def has_ended(self) -> bool:
        return bool(self._entries) and is_terminal(self._entries[-1])

    @property
    def newest(self) -> Entry | None:
        """The last entry; None while the window is empty."""
        return self._entries[-1] if self._entries else None

    def has_output(self, cursor: int) -> bool:
        """Whether some of the answer is among the entries up to `cursor`: not when the model has only been thinking."""
        return self._first_output is not None and cursor >= self._first_output

    def anchor(self, last_id: int) -> Offer:
        """The log's last id, read after the subscription was acknowledged; then what came meanwhile is merged."""
        if self.is_anchored:
            return Offer.KNOWN
        self.is_anchored = True
        self.floor = last_id
        if last_id > STARTED_ID:  # its beginning was not seen: all that follows `started` counts
            self._first_output = STARTED_ID + 1
        held, self._held = self._held, []
        outcomes = [self.offer(first, entries) for first, entries in held]
        if self.has_gap:
            return Offer.GAP
        return Offer.NEWS if Offer.NEWS in outcomes else Offer.KNOWN

    def offer(self, first_id: int, entries: Sequence[Entry]) -> Offer:
        """A publication, or a page of the log, whose first entry has id `first_id`."""
        final = first_id + len(entries) - 1
        if not self.is_anchored:
            self._hold(first_id, entries)
            return Offer.KNOWN
        last = self.last
        if final > self.wanted:
            self.wanted = final
        if first_id > last + 1:
            return Offer.GAP
        if final <= last:
            return Offer.KNOWN
        fresh = entries[last + 1 - first_id :] if first_id <= last else entries
        if self._first_output is None:
            self._first_output = next((n for n, entry in enumerate(fresh, last + 1) if entry[0] in OUTPUT_TAGS), None)
        self._entries.extend(fresh)
        self._bytes += sum(map(entry_bytes, fresh))
        for slots in self._encoded.values():
            slots.extend([None] * len(fresh))
        self._memo.clear()
        return Offer.NEWS

    def heard_of(self, last_id: int) -> bool:
        """The log's last id, read for safety. True when the window lacks something."""
        self.wanted = max(self.wanted, last_id)
        return self.has_gap

    def needs_trim(self) -> bool:
        return len(self._entries) > TRIM_EVERY or self._bytes > self._looked_bytes + TRIM_BYTES

    def trim(self, slowest: int) -> None:
        """Let go what every reader has (`slowest` is the smallest cursor), and what is beyond the bounds anyway.

        The newest entry stays, so that an ended feed knows it has ended.
        """
        self._memo.clear()
        drop = min(max(slowest - self.floor, 0), len(self._entries) - 1)
        drop = max(drop, len(self._entries) - MAX_WINDOW_ENTRIES)
        bytes_left = self._bytes - sum(map(self._weight, range(drop)))
        while bytes_left > MAX_WINDOW_BYTES and drop < len(self._entries) - 1:
            bytes_left -= self._weight(drop)
            drop += 1
        self._looked_bytes = bytes_left
        if drop <= 0:
            return
        self._bytes = bytes_left
        self.floor += drop
        del self._entries[:drop]
        for slots in self._encoded.values():
            del slots[:drop]

    def after(self, cursor: int, form: Format) -> Chunk | None:
        """What follows `cursor`, as much as one write takes. None when the window has nothing for it: caught up, or
        behind."""
        index = cursor - self.floor
        if index < 0 or index >= len(self._entries):
            return None
        memo = self._memo.get(form.name)
        if memo is not None and memo[0] == cursor:
            return memo[1]
        chunk = self._encode_after(index, form)
        self._memo[form.name] = (cursor, chunk)
        return chunk

    def entries_after(self, cursor: int) -> Sequence[Entry]:
        """The same unencoded, for a reader whose bytes depend on what came before: about as much as one write."""
        index = cursor - self.floor
        if index < 0 or index >= len(self._entries):
            return ()
        end, size = index, 0
        while end < len(self._entries) and (end == index or size < MAX_CHUNK_BYTES):
            size += entry_bytes(self._entries[end])
            end += 1
        return self._entries[index:end]

    def _encode_after(self, start: int, form: Format) -> Chunk:
        slots = self._encoded.get(form.name)
        if slots is None:
            slots = self._encoded[form.name] = [None] * len(self._entries)
        parts: list[bytes] = []
        size = 0
        for index in range(start, len(slots)):
            part = slots[index]
            if part is None:
                part = slots[index] = form.encode(self._entries[index], self.floor + index + 1, self.stream_id)
                self._bytes += sys.getsizeof(part)
            size += len(part)
            if parts and size > MAX_CHUNK_BYTES:
                break
            parts.append(part)
        end = start + len(parts)
        body = parts[0] if len(parts) == 1 else form.separator.join(parts)
        return Chunk(body, len(parts), self.floor + end, is_terminal(self._entries[end - 1]))

    def _weight(self, index: int) -> int:
        """Bytes that leave with an entry: its own and those of what it was encoded to."""
        encoded = (slots[index] for slots in self._encoded.values())
        return entry_bytes(self._entries[index]) + sum(sys.getsizeof(part) for part in encoded if part is not None)

    def _hold(self, first_id: int, entries: Sequence[Entry]) -> None:
        if self._held_entries + len(entries) > MAX_HELD_ENTRIES:
            self.wanted = max(self.wanted, first_id + len(entries) - 1)  # dropped: the log has it
            return
        self._held.append((first_id, entries))
        self._held_entries += len(entries)


def entry_bytes(entry: Entry) -> int:
    """What an entry takes in memory. Most are a model's text, which is then their fourth item: a short way."""
    if entry[0] == TOKEN or entry[0] == THINKING:
        return sys.getsizeof(entry[3]) + ENTRY_BYTES
    return sum(map(_deep_bytes, entry)) + ENTRY_BYTES


def _deep_bytes(value: Any) -> int:
    if isinstance(value, dict):
        return sys.getsizeof(value) + sum(_deep_bytes(key) + _deep_bytes(item) for key, item in value.items())
    if isinstance(value, list):
        return sys.getsizeof(value) + sum(map(_deep_bytes, value))
    return sys.getsizeof(value)
