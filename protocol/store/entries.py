"""Events to the bytes that Redis stores, and back: msgpack. Knows no client and no JSON.

entry        = msgpack array [tag, at_ms, …fields of the event in order]
publication  = first id in decimal, LF, then the entries one after another
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias, cast

import msgpack
import msgspec

from tokenrelay.protocol.events import (
    Completion,
    Data,
    Event,
    Failure,
    Started,
    Thinking,
    ThinkingStarted,
    Token,
    ToolCall,
    ToolInput,
    ToolResult,
    Unknown,
)

Entry: TypeAlias = Sequence[Any]
"""An entry unpacked but not yet an event: `[tag, at_ms, …]`. The hot path of an edge stays with these."""

TAGS: Final[dict[str, type[Event]]] = {
    "s": Started,
    "t": Token,
    "k": ThinkingStarted,
    "h": Thinking,
    "i": ToolInput,
    "c": ToolCall,
    "r": ToolResult,
    "d": Data,
    "e": Completion,
    "f": Failure,
}
_TAG_OF: Final = {kind: tag for tag, kind in TAGS.items()}
TOKEN: Final = "t"  # noqa: S105  a tag, not a secret
THINKING: Final = "h"
TOOL_INPUT: Final = "i"
TOOL_CALL: Final = "c"
TOOL_RESULT: Final = "r"
DATA: Final = "d"
OUTPUT_TAGS: Final = frozenset({TOKEN, TOOL_CALL, TOOL_RESULT, DATA})
"""What is part of the answer: a generation that has one of them in its log is not started again."""
TEXT_TAGS: Final = frozenset({TOKEN, THINKING, TOOL_INPUT})
"""What a model writes piece by piece; the text is the last field of an entry."""

TERMINAL_TAGS: Final = frozenset({"e", "f"})
"""No other tag ends a stream, in this version and in later ones that this one can read."""

_SIZES: Final = {tag: len(kind.__struct_fields__) + 1 for tag, kind in TAGS.items()}
MAX_ENTRY_BYTES: Final = 64 * 1024
"""No single entry is larger: a worker splits a longer token. Bounds publications and socket writes."""

MAX_ID_DIGITS: Final = 15
"""Of the first id of a publication: what Lua and JSON can count."""

MAX_TOKEN_CHARACTERS: Final = 8 * 1024
"""A delta longer than this is written as several tokens (four bytes a character at worst, twelve in escaped JSON)."""


class CorruptEntry(ValueError):
    """Bytes in the log that are not an entry."""


_CAME_LATER: Final[dict[type[Event], int]] = {Completion: 5, Failure: 4, ToolCall: 1}
"""So many fields at the end are written only where they say something; an older reader does not know them."""

_NO_ENTRY: Final = "an entry is an array that begins with a tag and a time and has the fields of its event"
MAX_MS: Final = 253_402_300_799_999
"""The last millisecond of the year 9999: what a date can say."""


def _is_entry(value: Any) -> bool:
    """Whether it can be delivered: whoever takes it from here need not look again.

    A tag of one letter that is not in the table is a newer worker's: see `Unknown`.
    """
    if type(value) is not list or len(value) < 2 or type(value[1]) is not int or not 0 <= value[1] <= MAX_MS:
        return False
    tag = value[0]
    if tag == TOKEN:  # nearly all are; for them nothing is made
        return len(value) > 3 and type(value[2]) is str and type(value[3]) is str and value[3] != ""
    if type(tag) is not str or len(tag) != 1:
        return False
    if (kind := TAGS.get(tag)) is None:
        return True
    try:
        msgspec.convert(dict(zip(kind.__struct_fields__, value[1:], strict=False)), kind)
    except ValueError:
        return False
    return True


def pack(event: Event) -> bytes:
    """An event as an entry."""
    fields = [getattr(event, name) for name in event.__struct_fields__]
    for _ in range(_CAME_LATER.get(type(event), 0)):
        if fields[-1] is not None:
            break
        fields.pop()
    return cast(bytes, msgpack.packb([_TAG_OF[type(event)], *fields]))


def pack_token(at_ms: int, model: str, text: str) -> bytes:
    """The same bytes as `pack(Token(…))` without making the value: the one call a worker makes for every delta."""
    return cast(bytes, msgpack.packb((TOKEN, at_ms, model, text)))


def unpack_entry(raw: bytes) -> Entry:
    """Bytes of the log as an entry. Raises CorruptEntry."""
    try:
        entry = msgpack.unpackb(raw)
    except (ValueError, msgpack.UnpackException) as error:
        raise CorruptEntry(f"not msgpack: {error}") from error
    if not _is_entry(entry):
        raise CorruptEntry(_NO_ENTRY)
    return cast(Entry, entry)


def event_of(entry: Entry) -> Event:
    """An entry as an event. Raises CorruptEntry.

    Fields beyond those of this version are passed over, and so is a tag that it does not know.
    """
    kind = TAGS.get(entry[0])
    try:
        return Unknown(entry[1]) if kind is None else kind(*entry[1 : _SIZES[entry[0]]])
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CorruptEntry(f"not an event: {error}") from error


def unpack(raw: bytes) -> Event:
    """Bytes of the log as an event. Raises CorruptEntry."""
    return event_of(unpack_entry(raw))


def is_terminal(entry: Entry) -> bool:
    """True for the one entry that ends a stream."""
    return entry[0] in TERMINAL_TAGS


def unpack_publication(message: bytes) -> tuple[int, list[Entry]]:
    """What the append script published: the first id and the entries. Raises CorruptEntry."""
    head, newline, body = message.partition(b"\n")
    if not newline or not head.isdigit() or len(head) > MAX_ID_DIGITS:
        raise CorruptEntry("a publication begins with its first id")
    try:
        first, entries = int(head), _unpack_all(body)
    except (ValueError, msgpack.UnpackException) as error:
        raise CorruptEntry(f"not msgpack: {error}") from error
    if not all(map(_is_entry, entries)):
        raise CorruptEntry(_NO_ENTRY)
    return first, entries


def _unpack_all(body: bytes) -> list[Entry]:
    """Mostly there is one value, and that needs no unpacker with a buffer of its own."""
    if not body:
        return []
    try:
        return [msgpack.unpackb(body)]
    except msgpack.ExtraData:
        unpacker = msgpack.Unpacker(max_buffer_size=0)
        unpacker.feed(body)
        entries: list[Entry] = []
        while unpacker.tell() < len(body):  # not `list(unpacker)`: that takes half an entry for the end
            entries.append(unpacker.unpack())
        return entries


def _follows(before: Entry, entry: Entry) -> bool:
    """True for two pieces of one kind by one model; of arguments, also of one call, which the second does not begin."""
    if entry[0] != before[0] or entry[2] != before[2] or len(entry) != len(before):
        return False
    return entry[0] != TOOL_INPUT or (entry[3] == before[3] and not entry[4])


def join_pieces(
    entries: Iterable[tuple[int, Entry]], max_characters: int = MAX_TOKEN_CHARACTERS
) -> list[tuple[int, Entry]]:
    """Compact replay: consecutive tokens of one model become one, with the id and the time of the last; so do pieces of
    its thinking, and of the arguments of one call.

    A joined piece has at most `max_characters` unless a single one is longer.
    """
    joined: list[tuple[int, Entry]] = []
    texts: list[str] = []  # of the piece under construction; empty when there is none
    size = 0
    first: Entry = ()  # of the piece under construction
    last_id, last = 0, first

    def let_go() -> None:
        # A call's id and name stand between model and text; only the first of its pieces has the name.
        joined.append((last_id, (*last[:3], *first[3:-1], "".join(texts))))
        texts.clear()

    for entry_id, entry in entries:
        if texts:
            if _follows(last, entry) and size + len(entry[-1]) <= max_characters:
                texts.append(entry[-1])
                size += len(entry[-1])
                last_id, last = entry_id, entry
                continue
            let_go()
        if entry[0] in TEXT_TAGS and len(entry) == _SIZES[entry[0]]:
            texts.append(entry[-1])
            size = len(entry[-1])
            first = last = entry
            last_id = entry_id
        else:
            joined.append((entry_id, entry))
    if texts:
        let_go()
    return joined
