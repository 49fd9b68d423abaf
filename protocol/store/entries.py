"""Events as the bytes that Redis holds, and back: msgpack. Knows no client and no JSON.

entry        = msgpack array [tag, at_ms, …fields of the event in order]
publication  = first id in decimal, LF, then the entries one after another
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias, cast

import msgpack

from tokenrelay.protocol.events import Completion, Event, Failure, Started, Token, ToolCall, ToolResult

Entry: TypeAlias = Sequence[Any]
"""An entry unpacked but not yet an event: `[tag, at_ms, …]`. The hot path of an edge stays with these."""

TAGS: Final[dict[str, type[Event]]] = {
    "s": Started,
    "t": Token,
    "c": ToolCall,
    "r": ToolResult,
    "e": Completion,
    "f": Failure,
}
_TAG_OF: Final = {kind: tag for tag, kind in TAGS.items()}
TOKEN: Final = "t"  # noqa: S105  a tag, not a secret
TERMINAL_TAGS: Final = frozenset({"e", "f"})
MAX_ENTRY_BYTES: Final = 64 * 1024
"""No single entry is larger: a worker splits a longer token. Bounds publications and socket writes."""

MAX_TOKEN_CHARACTERS: Final = 8 * 1024
"""A delta longer than this is written as several tokens (four bytes a character at worst, twelve in escaped JSON)."""


class CorruptEntry(ValueError):
    """Bytes in the log that are not an entry."""


_CAME_LATER: Final[dict[type[Event], int]] = {Completion: 3, Failure: 1}
"""So many fields at the end are written only where they say something; an older reader does not know them."""

_NO_ENTRY: Final = "an entry is an array that begins with a known tag"


def _is_entry(value: Any) -> bool:
    return type(value) is list and len(value) > 1 and type(value[0]) is str and value[0] in TAGS


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
    """An entry as an event. Raises CorruptEntry."""
    try:
        return TAGS[entry[0]](*entry[1:])
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
    if not newline or not head.isdigit():
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


def join_tokens(
    entries: Iterable[tuple[int, Entry]], max_characters: int = MAX_TOKEN_CHARACTERS
) -> list[tuple[int, Entry]]:
    """Compact replay: consecutive tokens of one model become one, with the id and the time of the last.

    A joined token has at most `max_characters` unless a single one is longer.
    """
    joined: list[tuple[int, Entry]] = []
    texts: list[str] = []  # of the token under construction
    size = 0
    held: tuple[int, Entry] | None = None  # its last entry; None when no token is under construction

    def let_go() -> None:
        nonlocal held, size
        if held is not None:
            entry_id, entry = held
            joined.append((entry_id, (TOKEN, entry[1], entry[2], "".join(texts))))
            texts.clear()
            held, size = None, 0

    for entry_id, entry in entries:
        if entry[0] != TOKEN:
            let_go()
            joined.append((entry_id, entry))
            continue
        if held is not None and (held[1][2] != entry[2] or size + len(entry[3]) > max_characters):
            let_go()
        texts.append(entry[3])
        size += len(entry[3])
        held = (entry_id, entry)
    let_go()
    return joined
