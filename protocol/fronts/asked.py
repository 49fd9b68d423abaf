"""What a front makes of a body, and what of it has to be remembered beside the log. Knows no dialect."""

from __future__ import annotations

from typing import Any

import msgspec

from tokenrelay.protocol.fronts.names import Names
from tokenrelay.protocol.wire.request import ChatRequest


class Remembered(msgspec.Struct, frozen=True, omit_defaults=True):
    """Kept in the stream's metadata (field `front`) for whoever reads the stream later; it holds no text of a prompt.

    `dialect`: which front. `created_s`: Unix time that every chunk repeats. `left_out`: parameters that were asked for
    and are not taken. `options`: what only that front reads. `names`: what the caller called fields of ours.
    """

    dialect: str
    created_s: int
    with_usage: bool = False
    left_out: list[str] = []
    options: dict[str, Any] = {}
    names: dict[str, str] = {}


class Asked(msgspec.Struct, frozen=True):
    """A body that was understood."""

    request: ChatRequest
    remembered: Remembered
    names: Names = Names()


def pack(remembered: Remembered) -> bytes:
    return msgspec.msgpack.encode(remembered)


def unpack(raw: bytes | None) -> Remembered | None:
    """None for a stream that no front began, or whose note cannot be read."""
    if not raw:
        return None
    try:
        return msgspec.msgpack.decode(raw, type=Remembered)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
