"""JSON that models and their providers write, and text cut anywhere, made safe to keep; knows no dialect."""

from __future__ import annotations

import json
from typing import Any, Final, TypeVar

import msgspec

T = TypeVar("T")

UNREADABLE: Final = (msgspec.DecodeError, ValueError, RecursionError)
"""What decoders raise for text that is not what it should be."""


def whole(text: str) -> str:
    """Halves of a surrogate pair that belong together joined, lone ones replaced: only then is there a UTF-8 for it."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class Text:
    """Text in deltas. Servers that count in UTF-16 cut a pair in two: its first half waits here for the second."""

    def __init__(self) -> None:
        self._half = ""  # "" or one high surrogate

    def take(self, text: str) -> str:
        if not self._half and text.isascii():
            return text
        text = self._half + text
        self._half = text[-1] if "\ud800" <= text[-1:] <= "\udbff" else ""
        return whole(text[:-1] if self._half else text)

    def rest(self) -> str:
        rest, self._half = whole(self._half), ""
        return rest


def decode(decoder: msgspec.json.Decoder[T], data: str) -> T:
    """Raises what is in `UNREADABLE`."""
    try:
        return decoder.decode(data)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        # Among other things a lone surrogate, which JSON may escape (RFC 8259 section 8.2) and msgspec does not take.
        return msgspec.convert(json.loads(data), decoder.type)


def encode(body: dict[str, Any]) -> bytes:
    """The body of a request."""
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        return whole(json.dumps(body, ensure_ascii=False)).encode()


def parse_arguments(text: str) -> dict[str, Any] | None:
    """The argument object; no text at all and `null` are an empty one, and one that was encoded twice is decoded twice.
    None when it is no JSON object."""
    value = _parsed(text)
    if isinstance(value, str):
        value = _parsed(value)
    return value if isinstance(value, dict) else None


def arguments_of(value: Any) -> dict[str, Any] | None:
    """The argument object where a server sends it as it is, or as text."""
    return parse_arguments(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _parsed(text: str) -> Any:
    """None when it is no JSON."""
    if not text.strip():
        return {}
    try:
        value = json.loads(whole(text), parse_int=_bounded, parse_constant=_no_number)
        if "\\u" in text:  # an escape may have hidden half of a pair
            value = json.loads(whole(json.dumps(value, ensure_ascii=False)))
    except UNREADABLE:
        return None
    return {} if value is None else value


def _bounded(digits: str) -> int | float:
    """JSON's numbers have no end, those of msgpack end at 64 bits."""
    number = float(digits)
    return int(digits) if abs(number) < 2**63 else number


def _no_number(constant: str) -> None:
    """JSON knows no NaN and no infinity, Python's decoder does."""
    raise ValueError(constant)
