"""The offer of each worker in Redis, from which edges know which models are available. Knows no model."""

from __future__ import annotations

from typing import Any, Final

import msgpack
import msgspec

OFFER_MS: Final = 10_000
"""An offer not renewed for this long is void."""


class Offer(msgspec.Struct, frozen=True):
    """One worker process. `dialects` it can speak, the catalogue's servers by
    name; `lacks` says of others why not; `until_ms` by Redis's clock."""

    until_ms: int
    dialects: tuple[str, ...]
    lacks: dict[str, str]
    running: int
    max_jobs: int


def pack(offer: Offer) -> bytes:
    packed: bytes = msgpack.packb(msgspec.to_builtins(offer))
    return packed


def unpack(raw: bytes) -> Offer | None:
    """None for what is no offer (another version's)."""
    try:
        value: Any = msgpack.unpackb(raw)
        return msgspec.convert(value, type=Offer)
    except (ValueError, msgpack.UnpackException, msgspec.ValidationError):
        return None
