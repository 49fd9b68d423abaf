"""JSON with long base64 strings, decoded as `msgspec` decodes it, but in steps that let other threads run. Knows no
request.

A decoder holds the interpreter's lock for as long as it reads, and an event loop waits. So long base64 is cut out first
and put back afterwards: finding its closing quote is one call of `memchr`. Base64 has no escapes; a string that has any
(some encoders write a slash, of which base64 has many, with a backslash) stays where it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any, Final, TypeVar, overload

import msgspec

T = TypeVar("T")

MIN_BYTES: Final = 256 * 1024
"""Less base64 is decoded where it is, in about 0.2 ms."""

STRIDE: Final = MIN_BYTES // 2
"""A string that is longer than this is met by one of the looks that are so far apart."""

STEP: Final = 1024 * 1024
MAX_HEAD: Final = 512
"""What may stand before the base64 in its string: `data:image/png;base64,`."""

BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="

PADDING: Final = "x" * 16_384
"""What stands in place of base64 is too long wherever the base64 would be: no bound of a request's string is larger."""

_DIGITS: Final = 4
"""Of a string's number: a body has not so many of `MIN_BYTES`."""

_PLACE: Final = re.compile(r" \(byte [0-9]+\)")


@overload
def decode(raw: bytes) -> Any: ...
@overload
def decode(raw: bytes, type: type[T]) -> T: ...
def decode(raw: bytes, type: Any = Any) -> Any:  # noqa: A002
    """What `msgspec.json.decode` gives. Raises what it raises; of a text without base64 no place is told."""
    cut = Cut(raw)
    if not cut.base64:
        return msgspec.json.decode(raw, type=type)
    try:
        return cut.restored(msgspec.json.decode(cut.text, type=type))
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError as error:
        raise msgspec.DecodeError(_PLACE.sub("", str(error))) from error


class Cut:
    """A JSON text without its long base64 strings: `text` is JSON just when the whole is."""

    def __init__(self, raw: bytes) -> None:
        self.text = raw
        self.base64: list[str] = []
        runs = list(_runs(raw))
        if not runs:
            return
        edges = [0, *(edge for run in runs for edge in run), len(raw)]
        rest = [raw[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]
        # A text cannot hold a digest of itself: nobody can have written the mark into it.
        self._mark = hashlib.blake2b(b'"'.join(rest), digest_size=16).hexdigest()
        self.base64 = [raw[start:end].decode("ascii") for start, end in runs]
        pieces = [rest[0]]
        for number, piece in enumerate(rest[1:]):
            pieces += (f"{PADDING}{self._mark}{number:0{_DIGITS}}".encode(), piece)
        self.text = b"".join(pieces)

    def restored(self, value: Any) -> Any:
        """What was decoded from `text`, as it would have been from the whole. Only where there is `base64`."""
        if isinstance(value, str):
            return self._whole(value) if self._mark in value else value
        if isinstance(value, list):
            return [self.restored(item) for item in value]
        if isinstance(value, dict):
            return {self.restored(name): self.restored(item) for name, item in value.items()}
        if isinstance(value, msgspec.Struct):
            fields = {name: getattr(value, name) for name in value.__struct_fields__}
            new = {name: self.restored(item) for name, item in fields.items() if isinstance(item, _MAY_HOLD)}
            return msgspec.structs.replace(value, **new) if new else value
        return value

    def _whole(self, value: str) -> str:
        # No regular expression: to compile one with the padding takes 15 ms of the interpreter's lock.
        head, *rest = value.split(PADDING + self._mark)
        return head + "".join(self.base64[int(part[:_DIGITS])] + part[_DIGITS:] for part in rest)


_MAY_HOLD: Final = (str, list, dict, msgspec.Struct)


def _runs(raw: bytes) -> Iterator[tuple[int, int]]:
    """Where long base64 begins and ends.

    It follows a quote, or the first comma behind one, and a quote follows it. In JSON that is always the inside of a
    string: outside, a quote follows only white space or one of `[{,:`. What is no JSON stays so without it.
    """
    looked, at = 0, STRIDE
    while at < len(raw):
        opening = raw.rfind(b'"', looked, at)
        if opening < 0:
            looked, at = at, at + STRIDE
            continue
        closing = raw.find(b'"', at)
        if closing < 0:
            return
        start = opening + 1
        start = max(start, raw.find(b",", start, start + MAX_HEAD) + 1)
        if closing - start >= MIN_BYTES and _is_base64(raw, start, closing):
            yield start, closing
        looked, at = closing, closing + STRIDE


def _is_base64(raw: bytes, start: int, end: int) -> bool:
    return not any(raw[at : min(at + STEP, end)].translate(None, BASE64) for at in range(start, end, STEP))
