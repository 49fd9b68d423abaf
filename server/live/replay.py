"""Pages of logs for readers that are behind: few at a time, read and encoded once for all who stand at the same place.

A thousand readers that were cut off together ask for the same page; two hundred slow ones ask for theirs one after
another, all day. Neither may hold up those who are not behind: an event loop that does nothing but replay answers
nobody, and takes its own Redis for dead.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec

from tokenrelay.protocol.reading.feed import Chunk, Format
from tokenrelay.protocol.reading.session import PAGE_BYTES, PAGE_ENTRIES, Session
from tokenrelay.server.store.log import LogReader

AT_ONCE: Final = 2
"""Pages under way. One takes some 2 ms of this process; between two of them everybody else has a turn."""

FIRST_PAGE_ENTRIES: Final = 128
LEAST_PAGE_ENTRIES: Final = 4
MOST_SIZES: Final = 1_024
"""Of so many streams it is known how many entries make a page of about `PAGE_BYTES`."""

KEPT_BYTES: Final = 4 * 1024 * 1024
KEPT_S: Final = 5.0
"""Long enough for a crowd that comes back within a few seconds, too short to outlive a stream's retention by much."""

Key: TypeAlias = tuple[str, int, str, bool]


class _Page(msgspec.Struct, frozen=True):
    chunks: list[Chunk]
    size: int
    read_at: float


class Replays:
    """One per process."""

    def __init__(self, reads: LogReader, on_read: Callable[[int], None] = lambda _: None) -> None:
        self._reads = reads
        self._on_read = on_read  # told how many entries each page had
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._under_way: dict[Key, asyncio.Task[list[Chunk]]] = {}
        self._kept: OrderedDict[Key, _Page] = OrderedDict()  # the oldest first
        self._bytes = 0
        self._fitting: OrderedDict[str, int] = OrderedDict()  # stream → entries that make a page; the oldest first

    def __repr__(self) -> str:
        return f"<Replays {len(self._under_way)} under way | {len(self._kept)} pages, {self._bytes} bytes kept>"

    def page(self, session: Session, form: Format) -> asyncio.Future[list[Chunk]]:
        """What follows the session's cursor in the log, as writes of bounded size. The future is shared: do not cancel
        it.

        It raises TokenrelayError SERVICE_UNAVAILABLE when Redis is away, CorruptEntry, and LookupError when what the
        reader lacks is no longer in the log.
        """
        key = (session.stream_id, session.cursor, form.name, session.is_compact)
        if (kept := self._kept.get(key)) is not None:
            done: asyncio.Future[list[Chunk]] = asyncio.get_running_loop().create_future()
            done.set_result(kept.chunks)
            return done
        if (task := self._under_way.get(key)) is None:
            task = self._under_way[key] = asyncio.create_task(self._read(key, session, form))
        return task

    def forget_old(self, now: float) -> None:
        """A second has passed, by the loop's clock."""
        while self._kept and now - next(iter(self._kept.values())).read_at > KEPT_S:
            self._drop_oldest()

    async def close(self) -> None:
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, key: Key, session: Session, form: Format) -> list[Chunk]:
        try:
            async with self._turn:
                most = self._fitting.get(session.stream_id, FIRST_PAGE_ENTRIES)
                first, entries = await self._reads.page(session.stream_id, key[1], most)
                self._on_read(len(entries))
                chunks = session.chunks(first, entries, form)
        finally:
            del self._under_way[key]
        if len(entries) == most:  # one that is not full may be longer the next time
            self._keep(key, chunks)
        self._learn(session.stream_id, len(entries), sum(len(chunk.body) for chunk in chunks))
        return chunks

    def _learn(self, stream_id: str, entries: int, size: int) -> None:
        """How many entries to read of this stream the next time: XRANGE bounds their number, not their bytes."""
        fitting = entries * PAGE_BYTES // max(size, 1)
        self._fitting[stream_id] = min(max(fitting, LEAST_PAGE_ENTRIES), PAGE_ENTRIES)
        self._fitting.move_to_end(stream_id)
        if len(self._fitting) > MOST_SIZES:
            self._fitting.popitem(last=False)

    def _keep(self, key: Key, chunks: list[Chunk]) -> None:
        size = sum(len(chunk.body) for chunk in chunks)
        self._kept[key] = _Page(chunks, size, asyncio.get_running_loop().time())
        self._bytes += size
        while self._bytes > KEPT_BYTES:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, page = self._kept.popitem(last=False)
        self._bytes -= page.size


async def shared(future: asyncio.Future[list[Chunk]]) -> list[Chunk]:
    """Wait for a page without owning it. A page that is there already costs a turn of the loop all the same, so that
    one reader's thousand pages are a thousand turns for the others."""
    if future.done():
        await asyncio.sleep(0)
    return await asyncio.shield(future)


def forget(future: asyncio.Future[list[Chunk]]) -> None:
    """The reader has gone; whatever becomes of the page is nobody's error."""
    future.add_done_callback(_retrieve)


def _retrieve(future: asyncio.Future[list[Chunk]]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        future.exception()
