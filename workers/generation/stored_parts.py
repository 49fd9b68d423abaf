"""The bytes of a request's parts, fetched where its edge put them. Knows no message."""

from __future__ import annotations

from collections.abc import Sequence

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.runtime.stores.base import Store
from tokenrelay.protocol.store import keys
from tokenrelay.protocol.wire.parts import Content, TextPart
from tokenrelay.workers.redis import AWAY


async def fetch(store: Store, stream_id: str, contents: Sequence[Content | None]) -> dict[int, bytes]:
    """By the parts' numbers. Raises TokenrelayError SERVICE_UNAVAILABLE where Redis is away or has lost one."""
    found = [part for content in contents if isinstance(content, list) for part in content]
    numbers = [part.part for part in found if not isinstance(part, TextPart) and part.part is not None]
    if not numbers:
        return {}
    try:
        raws = await store.ask("MGET", *(keys.part(stream_id, number) for number in numbers))
    except AWAY as error:
        raise TokenrelayError("SERVICE_UNAVAILABLE", "the files of this request cannot be read now") from error
    blobs = {number: raw for number, raw in zip(numbers, raws, strict=True) if raw is not None}
    if len(blobs) < len(numbers):
        raise TokenrelayError("SERVICE_UNAVAILABLE", "a file of this request is gone; send it again")
    return blobs
