"""Pages of logs for readers that are behind: few at a time, read and encoded once for all who stand at the same place.

A thousand readers that were cut off together ask for the same page; two hundred slow ones ask for theirs one after
another, all day. Neither may hold up those who are not behind: an event loop that does nothing but replay answers
nobody, and takes its own Redis for dead.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from tokenrelay.protocol.reading.feed import Chunk, Format, entry_bytes
from tokenrelay.protocol.reading.session import PAGE_BYTES, PAGE_ENTRIES, Session
from tokenrelay.protocol.store.entries import Entry, join_pieces
from tokenrelay.server.store.log import LogReader

AT_ONCE: Final = 2
"""Pages under way. One takes some 2 ms of this process; between two of them everybody else has a turn."""

FIRST_PAGE_ENTRIES: Final = 64
LEAST_PAGE_ENTRIES: Final = 4
MOST_SIZES: Final = 1_024
"""Of so many streams it is known how many entries make a page of about `PAGE_BYTES`."""

KEPT_BYTES: Final = 1024 * 1024
KEPT_S: Final = 5.0
"""Long enough for a crowd that comes back within a few seconds, too short to outlive a stream's retention by much."""

Key: TypeAlias = tuple[str, int, str, bool]
Numbered: TypeAlias = list[tuple[int, Entry]]

UNENCODED: Final = ""
"""In place of a format's name, in the key of a page that is not encoded."""


class _Page(msgspec.Struct, frozen=True):
    future: asyncio.Future[Any]
    size: int
    read_at: float


class Replays:
    """One per process."""

    def __init__(self, reads: LogReader, on_read: Callable[[int], None] = lambda _: None) -> None:
        self._reads = reads
        self._on_read = on_read  # told how many entries each page had
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._under_way: dict[Key, asyncio.Task[Any]] = {}
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
        return self._shared(key, lambda first, found: session.chunks(first, found, form))

    def entries(self, session: Session) -> asyncio.Future[Numbered]:
        """The same unencoded, with their ids: for a reader whose bytes depend on what it was told before. Tokens are
        joined where the session is compact."""
        cursor, is_compact = session.cursor, session.is_compact

        def numbered(first: int, found: Sequence[Entry]) -> Numbered:
            if not found or first != cursor + 1:
                raise LookupError(f"expected entry {cursor + 1}, the log begins at {first}")
            pairs = list(enumerate(found, first))
            return _bounded(join_pieces(pairs) if is_compact else pairs)

        return self._shared((session.stream_id, cursor, UNENCODED, is_compact), numbered)

    def _shared(self, key: Key, made_of: Callable[[int, Sequence[Entry]], Any]) -> asyncio.Future[Any]:
        """The page that is kept or under way, or a new one."""
        if (kept := self._kept.get(key)) is not None:
            return kept.future
        if (task := self._under_way.get(key)) is None:
            task = self._under_way[key] = asyncio.create_task(self._read(key, made_of))
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

    async def _read(self, key: Key, made_of: Callable[[int, Sequence[Entry]], Any]) -> Any:
        stream_id, after, _, _ = key
        try:
            async with self._turn:
                most = self._fitting.get(stream_id, FIRST_PAGE_ENTRIES)
                first, found = await self._reads.page(stream_id, after, most)
                self._on_read(len(found))
                page = made_of(first, found)
        finally:
            del self._under_way[key]
        size, taken = _size(page), _last_id(page) - after
        if len(found) == most or taken < len(found):  # one that is not full may be longer the next time
            self._keep(key, page, size)
        self._learn(stream_id, taken, size)
        return page

    def _learn(self, stream_id: str, entries: int, size: int) -> None:
        """How many entries to read of this stream the next time: XRANGE bounds their number, not their bytes."""
        fitting = entries * PAGE_BYTES // max(size, 1)
        self._fitting[stream_id] = min(max(fitting, LEAST_PAGE_ENTRIES), PAGE_ENTRIES)
        self._fitting.move_to_end(stream_id)
        if len(self._fitting) > MOST_SIZES:
            self._fitting.popitem(last=False)

    def _keep(self, key: Key, page: Any, size: int) -> None:
        done = asyncio.get_running_loop().create_future()
        done.set_result(page)
        self._kept[key] = _Page(done, size, asyncio.get_running_loop().time())
        self._bytes += size
        while self._bytes > KEPT_BYTES:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, page = self._kept.popitem(last=False)
        self._bytes -= page.size


def _size(page: list[Any]) -> int:
    """Of chunks exactly; of entries what their text takes."""
    return sum(len(item.body) if isinstance(item, Chunk) else entry_bytes(item[1]) for item in page)


def _last_id(page: list[Any]) -> int:
    last = page[-1]
    return int(last.cursor if isinstance(last, Chunk) else last[0])


def _bounded(pairs: Numbered) -> Numbered:
    """The first of them, of about a page's bytes."""
    size = 0
    for position, (_, entry) in enumerate(pairs, 1):
        size += entry_bytes(entry)
        if size > PAGE_BYTES:
            return pairs[:position]
    return pairs


async def shared(future: asyncio.Future[list[Any]]) -> list[Any]:
    """Wait for a page without owning it. A page that is there already costs a turn of the loop all the same, so that
    one reader's thousand pages are a thousand turns for the others."""
    if future.done():
        await asyncio.sleep(0)
    return await asyncio.shield(future)


def forget(future: asyncio.Future[list[Any]]) -> None:
    """The reader has gone; whatever becomes of the page is nobody's error."""
    future.add_done_callback(_retrieve)


def _retrieve(future: asyncio.Future[list[Any]]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        future.exception()
