"""The offer of each worker in Redis, from which edges know which models are available. Knows no model."""

from __future__ import annotations

from typing import Any, Final

import msgpack
import msgspec

OFFER_MS: Final = 10_000
"""An offer not renewed for this long is void."""


class Offer(msgspec.Struct, frozen=True):
    """One worker process. `dialects` it can speak, the catalogue's servers by name; `lacks` says of others why not;
    `until_ms` by Redis's clock. `models`: the ids of the rows that it answers; None: it does not say (it is of an
    earlier version), so all rows of its dialects. `is_late`: its event
    loop has been late for a while, it has more to do than it can."""

    until_ms: int
    dialects: tuple[str, ...]
    lacks: dict[str, str]
    running: int
    max_jobs: int
    models: tuple[str, ...] | None = None
    is_late: bool = False

    def answers(self, model: str, source: str) -> bool:
        """Whether it answers this row, of this dialect or server."""
        return source in self.dialects and (self.models is None or model in self.models)


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
