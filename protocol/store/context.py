"""What accompanies a request: its id, its trace, and whether timing was requested. No text."""

from __future__ import annotations

import re
from typing import Final

import msgspec

_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?\Z")
MAX_TRACEPARENT: Final = 128


class Context(msgspec.Struct, frozen=True, omit_defaults=True):
    """Travels with a generation from the edge to its worker, and on to the model's provider.

    `traceparent` is W3C Trace Context's header (https://www.w3.org/TR/trace-context/), "" when there is none.
    `wants_timing`: the completion is to tell where the time went.
    """

    request_id: str = ""
    traceparent: str = ""
    wants_timing: bool = False
    transport: str = ""  # over which it was asked for, for the log


def of_headers(request_id: str, traceparent: str | None, debug_timing: str | None) -> Context:
    """From `X-Request-Id`, `traceparent`, `X-Debug-Timing`. What is no traceparent is none: the standard says so."""
    given = (traceparent or "").strip()
    is_valid = len(given) <= MAX_TRACEPARENT and _TRACEPARENT.match(given)
    return Context(request_id, given if is_valid else "", (debug_timing or "").strip() == "1")


def for_stream(given: Context, own: str) -> Context:
    """One of the streams on a socket whose handshake said `given`: an id of its own, which begins with that one."""
    return Context(f"{given.request_id[:47]}.{own}", given.traceparent, given.wants_timing)


def pack(context: Context) -> bytes:
    """As the field `context` of a stream's metadata has it."""
    return msgspec.msgpack.encode(context)


def unpack(raw: bytes) -> Context:
    """Nothing, or what cannot be read, is an empty one: it decides nothing."""
    try:
        return msgspec.msgpack.decode(raw, type=Context)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Context()
