"""Server-Sent Events from bytes, incrementally. Knows the WHATWG rules, not Tokenrelay's events, and opens nothing.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html, sections 9.2.5 and 9.2.6. The server has
a decoder of its own; both read the test vectors of `protocol/vectors/sse_decode.json`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

MAX_EVENT_BYTES: Final = 1024 * 1024
"""What a server may send without ending an event (protocol/README.md, section 3)."""

MAX_RETRY_DIGITS: Final = 15
"""A longer number is an attack: Python refuses to parse thousands of digits."""

_BOM: Final = b"\xef\xbb\xbf"


class Frame(NamedTuple):
    """One event. `event_id` is the last id seen so far on the connection (WHATWG: it persists)."""

    data: str
    event: str = "message"
    event_id: str = ""


class FrameTooLarge(ValueError):
    """The peer sent more than `MAX_EVENT_BYTES` without ending an event."""


class Decoder:
    """Bytes in any chunking → frames. Lines end in LF, CR or CRLF; a BOM, comments and unknown fields are dropped."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []  # the start of a line whose end has not come yet, in the pieces in which it came
        self._size = 0  # bytes held in `_rest` and `_data`
        self._after_cr = False  # the last chunk ended in CR: an LF that opens the next one belongs to it
        self._at_start = True  # no complete line yet: a BOM may stand here
        self._data: list[str] = []  # data lines of the event under construction
        self._event = ""
        self._id = ""  # the last `id:` seen; it counts once its event has been dispatched
        self.last_event_id = ""  # where to resume: of the last event that came whole
        self.retry_ms: int | None = None  # the last `retry:` seen; None until one came

    def feed(self, chunk: bytes) -> list[Frame]:
        """Every event that this chunk completes, in order. Raises FrameTooLarge."""
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._after_cr = False
        if not chunk:
            return []
        self._after_cr = chunk.endswith(b"\r")
        lines = _split(chunk)
        tail = lines.pop()
        taken = [self._take_line(self._whole(line)) for line in lines]
        frames = [frame for frame in taken if frame is not None]
        self._hold(tail)
        return frames

    def _whole(self, end: bytes) -> bytes:
        """The line that ends with these bytes."""
        line = b"".join([*self._rest, end])
        self._size -= len(line) - len(end)
        self._rest.clear()
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        return line

    def _hold(self, piece: bytes) -> None:
        if piece:
            self._grow(len(piece))
            self._rest.append(piece)

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > MAX_EVENT_BYTES:
            raise FrameTooLarge(f"an event has at most {MAX_EVENT_BYTES} bytes")

    def _take_line(self, line: bytes) -> Frame | None:
        if not line:
            return self._dispatch()
        name, colon, value = line.partition(b":")
        if colon and not name:
            return None  # a comment
        # "If value starts with a U+0020 SPACE character, remove it from value."
        text = (value[1:] if value[:1] == b" " else value).decode("utf-8", "replace")
        match name:
            case b"data":
                self._grow(len(value) + 1)
                self._data.append(text)
            case b"id" if "\0" not in text:  # "If the field value does not contain U+0000 NULL"
                self._id = text
            case b"event":
                self._event = text
            case b"retry" if text.isascii() and text.isdigit() and len(text) <= MAX_RETRY_DIGITS:
                self.retry_ms = int(text)
        return None

    def _dispatch(self) -> Frame | None:
        data, event = self._data, self._event
        self._data, self._event, self._size = [], "", 0
        # "Set the last event ID string of the event source to the value of the last event ID buffer": not before, so
        # that an event whose id came and whose end did not is asked for again.
        self.last_event_id = self._id
        if not data:  # "If the data buffer is an empty string, set the data buffer and the event type buffer to ''"
            return None
        return Frame("\n".join(data), event or "message", self.last_event_id)


def _split(text: bytes) -> list[bytes]:
    """Lines ended by CRLF, LF or CR; the last item is what has no end yet (empty when all ended)."""
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return text.split(b"\n")
