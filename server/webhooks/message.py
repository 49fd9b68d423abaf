"""A stream's end as the body of a webhook: its snapshot, each part of it cut to a bound. Knows no receiver."""

from __future__ import annotations

from typing import Final

from tokenrelay.protocol.store.entries import (
    DATA,
    TERMINAL_TAGS,
    THINKING,
    TOKEN,
    TOOL_CALL,
    TOOL_RESULT,
    CorruptEntry,
    Entry,
)
from tokenrelay.protocol.wire import event_json
from tokenrelay.protocol.wire.snapshot import Snapshot
from tokenrelay.server.store.log import Description, LogReader

MAX_PART_BYTES: Final = 256 * 1024
"""Of the text in UTF-8, of the thinking likewise, of tool calls and of data as JSON: all of it in memory at once, for
each webhook under way."""

PAGE_ENTRIES: Final = 128
"""Read at once: between two pages everybody else has a turn."""

_FIELDS: Final = {
    TOKEN: "text", THINKING: "thinking", TOOL_CALL: "tool_calls", TOOL_RESULT: "tool_calls", DATA: "data",
}  # fmt: skip
"""Tag of an entry → the field of a snapshot that it adds to."""


class Message:
    """Grows by the entries of a log in order. `cut` names the fields that are not whole."""

    def __init__(self) -> None:
        self._snapshot = Snapshot()
        self._text = bytearray()
        self._left = dict.fromkeys(_FIELDS.values(), MAX_PART_BYTES)
        self.cut: list[str] = []

    @property
    def last_id(self) -> int:
        return self._snapshot.last_id

    def take(self, first_id: int, entries: list[Entry]) -> None:
        """The next entries."""
        for entry_id, entry in enumerate(entries, first_id):
            if self._fits(entry):
                self._text += self._snapshot.pass_on(entry_id, entry).encode("utf-8", "replace")
            else:
                self._snapshot.last_id = entry_id

    def lose(self) -> None:
        """What follows is not in Redis any more, or cannot be read."""
        for field in self._left:
            self._cut(field)

    def body(self, found: Description) -> bytes:
        """The JSON that is sent, ASCII only."""
        state = self._snapshot.state(found.stream_id, found.public_state, found.model)
        text = bytes(self._text[:MAX_PART_BYTES]).decode("utf-8", "ignore")  # never half a character
        told = {
            "type": f"stream.{found.state}",
            "timestamp": event_json.timestamp(found.ended_ms or found.created_ms),
            "created_at": event_json.timestamp(found.created_ms),
            "owner": found.owner,
            "metadata": found.metadata,
            **state,
            "text": text,
            "truncated": self.cut,
        }
        return event_json.to_json(told).encode()

    def _fits(self, entry: Entry) -> bool:
        if entry[0] in TERMINAL_TAGS:
            return True
        field = _FIELDS.get(entry[0])
        if field is None or field in self.cut:
            return False
        if entry[0] in (TOKEN, THINKING):
            self._left[field] -= len(str(entry[3]).encode("utf-8", "replace"))
        else:
            self._left[field] -= len(event_json.to_json(list(entry)))
        if self._left[field] >= 0:
            return True
        self._cut(field)
        return bool(entry[0] == TOKEN)  # the text is cut within a token, everything else before an event

    def _cut(self, field: str) -> None:
        if field not in self.cut:
            self.cut.append(field)


async def body_of(reads: LogReader, found: Description) -> bytes:
    """The body for a stream that has ended. Raises TokenrelayError SERVICE_UNAVAILABLE when Redis is away."""
    message = Message()
    while message.last_id < found.last_id:
        try:
            first, entries = await reads.page(found.stream_id, message.last_id, PAGE_ENTRIES)
        except CorruptEntry:
            entries = []
            first = 0
        if not entries or first != message.last_id + 1:
            message.lose()
            break
        message.take(first, entries)
    return message.body(found)
