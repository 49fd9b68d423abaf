"""Server-Sent Events as bytes: one encoder, one incremental decoder. Knows the WHATWG rules, not our events.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html, sections 9.2.5 and 9.2.6.
"""

from __future__ import annotations

from typing import Final

import msgspec

HEARTBEAT: Final = b": hb\n\n"
MAX_EVENT_BYTES: Final = 1024 * 1024
MAX_RETRY_DIGITS: Final = 15
"""More is no time but an attempt: Python refuses to parse some thousand digits."""


def encode_frame(data: str, event_id: int | None = None) -> bytes:
    """One frame: `id: N`, `data: …`, blank line. `data` is one line of ASCII JSON, so no line can be injected.

    Raises ValueError when `data` has a line break.
    """
    if "\n" in data or "\r" in data:
        raise ValueError("data of one frame is one line")
    if event_id is None:
        return b"data: %b\n\n" % data.encode()
    return b"id: %d\ndata: %b\n\n" % (event_id, data.encode())


def encode_retry(milliseconds: int) -> bytes:
    """Advice to an EventSource: how long to wait before it reconnects."""
    return b"retry: %d\n\n" % milliseconds


class Frame(msgspec.Struct, frozen=True):
    """One dispatched event. `event_id` is the last id seen so far on the connection (WHATWG: it persists)."""

    data: str
    event: str = "message"
    event_id: str = ""


class FrameTooLarge(ValueError):
    """The peer sent more than `MAX_EVENT_BYTES` without ending an event."""


class Decoder:
    """Bytes in any chunking → frames. Lines end in LF, CR or CRLF; a BOM is dropped; comments and unknown fields
    too."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max = max_event_bytes
        self._rest = b""  # the start of a line whose end has not come yet
        self._after_cr = False  # the last chunk ended in CR: an LF that opens the next one belongs to it
        self._at_start = True  # no complete line yet: a BOM may stand here
        self._data: list[str] = []  # data lines of the event under construction
        self._size = 0  # their length in bytes
        self._event = ""
        self._id = ""  # the last `id:` seen; it counts once its event has been dispatched
        self.last_event_id = ""  # where to resume: of the last event that came whole
        self.retry_ms: int | None = None  # the last `retry:` seen; None until one came

    @property
    def is_mid_event(self) -> bool:
        """True when bytes of an unfinished event are held; at end of stream the rules discard them."""
        return bool(self._rest or self._data)

    def feed(self, chunk: bytes) -> list[Frame]:
        """Every event that this chunk completes, in order. Raises FrameTooLarge."""
        if not chunk:
            return []
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._after_cr = chunk.endswith(b"\r") if chunk else False
        lines = _split(self._rest + chunk)
        self._rest = lines.pop()
        if self._size + len(self._rest) > self._max:
            raise FrameTooLarge(f"an event has at most {self._max} bytes")
        frames: list[Frame] = []
        for line in lines:
            if self._at_start:
                self._at_start = False
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line:
                self._take_line(line)
            elif (frame := self._dispatch()) is not None:
                frames.append(frame)
        return frames

    def _take_line(self, line: bytes) -> None:
        name, colon, value = line.partition(b":")
        if colon and not name:
            return  # a comment
        # "If value starts with a U+0020 SPACE character, remove it from value."
        text = (value[1:] if value[:1] == b" " else value).decode("utf-8", "replace")
        if name == b"data":
            self._size += len(value) + 1
            if self._size > self._max:
                raise FrameTooLarge(f"an event has at most {self._max} bytes")
            self._data.append(text)
        elif name == b"id":
            if "\0" not in text:  # "If the field value does not contain U+0000 NULL"
                self._id = text
        elif name == b"event":
            self._event = text
        elif name == b"retry" and text.isascii() and text.isdigit() and len(text) <= MAX_RETRY_DIGITS:
            self.retry_ms = int(text)

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
