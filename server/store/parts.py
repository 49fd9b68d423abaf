"""The bytes that come with a request: room for them in Redis, and their way there. Knows no HTTP and no queue."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec
import structlog
from redis.exceptions import RedisError

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.runtime.stores.base import Store
from tokenrelay.protocol.store import keys, partitions, scripts
from tokenrelay.protocol.wire import parts, request
from tokenrelay.protocol.wire.request import ChatRequest
from tokenrelay.server.store.partitions import Partitions
from tokenrelay.server.store.redis import asking, run

OWNER_SHARE: Final = 10
"""One key may have a tenth of the room, so that no key alone can fill it."""

SMALL_BYTES: Final = 32 * 1024
"""Decoded on the event loop: less than a thread costs."""

log = structlog.get_logger()


class Packed(msgspec.Struct, frozen=True):
    """A request as Redis will hold it, the bytes of its parts beside it."""

    request: bytes
    blobs: list[bytes]
    fingerprint: str


async def packed(body: ChatRequest) -> Packed:
    """Raises TokenrelayError VALIDATION_ERROR for a part that is no base64, with its field."""
    if parts.inline_bytes(body.contents) <= SMALL_BYTES:
        return _packed(body)
    return await asyncio.to_thread(_packed, body)


def _packed(body: ChatRequest) -> Packed:
    taken = request.take_out(body)
    return Packed(request.pack(taken.request), taken.blobs, taken.request.fingerprint(taken.blobs))


class Held:
    """Room for one request's bytes, known as `name` ("": it has none); `is_taken` once a generation answers for it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_taken = False


class Parts:
    """Where the edge puts them."""

    def __init__(self, store: Store, partitions_: Partitions, most_bytes: int) -> None:
        self._store = store
        self._partitions = partitions_
        self._most_bytes = most_bytes

    @contextlib.asynccontextmanager
    async def held(self, stream_id: str, owner: str, blobs: Sequence[bytes]) -> AsyncIterator[Held]:
        """While the bytes wait for their generation; without one they are gone afterwards, in any case after a minute.

        Raises TokenrelayError OVERLOADED when there is no room, SERVICE_UNAVAILABLE.
        """
        held = Held(scripts.held_parts(stream_id, owner, [len(blob) for blob in blobs]))
        if not held.name:
            yield held
            return
        size, most_of_owner = sum(map(len, blobs)), max(1, self._most_bytes // OWNER_SHARE)
        asked = scripts.hold(held.name, self._most_bytes, most_of_owner)
        tag = partitions.tag_of(stream_id)
        # In a cluster the script sees its partition only: the others are as of the last look.
        bounds = keys.digest(owner), size, self._most_bytes, most_of_owner
        if tag and not self._partitions.waiting.has_room(*bounds):
            with asking():
                await self._partitions.look_again()
        if (tag and not self._partitions.waiting.has_room(*bounds)) or not scripts.hold_reply(
            await run(self._store, scripts.HOLD, asked, tag)
        ):
            issue = "too many pictures, files and sounds wait for their answers already; try again later"
            raise TokenrelayError("OVERLOADED", issue, retry_after=5)
        if tag:
            self._partitions.waiting.count_parts(keys.digest(owner), size)
        try:
            for number, blob in enumerate(blobs):
                with asking():
                    await self._store.ask("SET", keys.part(stream_id, number), blob, "PX", scripts.HOLD_MS)
            yield held
        finally:
            if not held.is_taken:
                await self._drop(held, tag)

    async def _drop(self, held: Held, tag: str) -> None:
        try:
            await run(self._store, scripts.DROP, scripts.drop(held.name), tag)
        except (TokenrelayError, RedisError) as error:  # they end by themselves
            log.warning("parts_not_dropped", error=str(error)[:80])
