"""Replay under a crowd: one read for all who stand at the same place, few at a time, little kept and not for long."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.reading.session import PAGE_BYTES, PAGE_ENTRIES, Session
from tokenrelay.protocol.store import entries
from tokenrelay.protocol.wire import formats
from tokenrelay.server.live import replay
from tokenrelay.server.live.replay import AT_ONCE, FIRST_PAGE_ENTRIES, KEPT_BYTES, KEPT_S, Replays
from tokenrelay.server.store.log import LogReader

PATIENCE_S = 10


class Reads(LogReader):
    """A log of `length` equal tokens in each stream; a read takes as long as the test says."""

    def __init__(self, length: int, text: str = "w ") -> None:
        self.length = length
        self.asked: list[tuple[str, int]] = []
        self.under_way = 0
        self.most_under_way = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.is_away = False
        self._text = text

    async def page(self, stream_id: str, after: int, most: int = PAGE_ENTRIES) -> tuple[int, list[entries.Entry]]:
        self.asked.append((stream_id, after))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.may_answer.wait()
            if self.is_away:
                raise TokenrelayError("SERVICE_UNAVAILABLE", "away", retry_after=1)
        finally:
            self.under_way -= 1
        number = min(most, self.length - after)
        return (after + 1 if number else 0), [(entries.TOKEN, 1, "m", self._text)] * number


def session(stream_id: str = "s", cursor: int = 0, *, is_compact: bool = False) -> Session:
    return Session(stream_id, cursor, is_compact=is_compact, now=0.0)


def play(scene: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await scene

    asyncio.run(bounded())


async def read(replays: Replays, reader: Session) -> bytes:
    return b"".join(chunk.body for chunk in await replay.shared(replays.page(reader, formats.SSE)))


def test_a_crowd_at_one_place_costs_one_read() -> None:
    async def scene() -> None:
        reads = Reads(10)
        replays = Replays(reads)
        bodies = await asyncio.gather(*(read(replays, session()) for _ in range(100)))
        assert reads.asked == [("s", 0)]
        assert len(set(bodies)) == 1
        assert bodies[0].count(b"data: ") == 10

    play(scene())


def test_formats_and_compactness_are_not_mixed_up() -> None:
    async def scene() -> None:
        replays = Replays(Reads(FIRST_PAGE_ENTRIES))
        for _ in range(2):  # read, then kept
            exact = await replays.page(session(), formats.SSE)
            compact = await replays.page(session(is_compact=True), formats.SSE)
            over_ws = await replays.page(session(), formats.WS_JSON)
            assert sum(chunk.count for chunk in exact) == FIRST_PAGE_ENTRIES
            assert sum(chunk.count for chunk in compact) == 1
            assert over_ws[0].body.startswith(b'{"type":"event"')

    play(scene())


def test_few_pages_are_under_way_at_once() -> None:
    async def scene() -> None:
        reads = Reads(10)
        reads.may_answer.clear()
        replays = Replays(reads)
        readers = [asyncio.create_task(read(replays, session(f"s{number}"))) for number in range(50)]
        while len(reads.asked) < AT_ONCE:
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(reads.asked) == AT_ONCE
        reads.may_answer.set()
        await asyncio.gather(*readers)
        assert len(reads.asked) == 50
        assert reads.most_under_way == AT_ONCE

    play(scene())


def test_a_full_page_is_kept_for_a_while_and_no_longer() -> None:
    async def scene() -> None:
        reads = Reads(FIRST_PAGE_ENTRIES)
        replays = Replays(reads)
        first = await read(replays, session())
        assert await read(replays, session()) == first
        assert len(reads.asked) == 1
        replays.forget_old(asyncio.get_running_loop().time() + KEPT_S + 1)
        assert await read(replays, session()) == first
        assert len(reads.asked) == 2

    play(scene())


def test_a_page_that_may_grow_is_read_again() -> None:
    async def scene() -> None:
        reads = Reads(FIRST_PAGE_ENTRIES - 1)
        replays = Replays(reads)
        short = await read(replays, session())
        reads.length += 1
        assert len(await read(replays, session())) > len(short)

    play(scene())


def test_what_is_kept_is_bounded() -> None:
    async def scene() -> None:
        reads = Reads(FIRST_PAGE_ENTRIES, text="x" * 2_000)
        replays = Replays(reads)
        sizes = [len(await read(replays, session(f"s{number}"))) for number in range(80)]
        assert sum(sizes) > KEPT_BYTES  # else this shows nothing
        await read(replays, session("s79"))
        assert len(reads.asked) == 80  # the newest is still there
        await read(replays, session("s0"))
        assert len(reads.asked) == 81  # the oldest is not

    play(scene())


@pytest.mark.parametrize("size", [2, 200, 2_000, 8_000, 60_000])
def test_a_page_has_few_entries_where_they_are_large(size: int) -> None:
    async def scene() -> None:
        reads = Reads(20_000, text="x" * size)
        replays, reader = Replays(reads), session()
        chunks = await replays.page(reader, formats.SSE)
        most = max(2 * PAGE_BYTES, 2 * (size + 200))
        for _ in range(2):  # the first page of a stream cannot know how many it may ask for, but hands on as little
            assert sum(len(chunk.body) for chunk in chunks) <= most
            for chunk in chunks:
                reader.took(chunk)
            chunks = await replays.page(reader, formats.SSE)
        assert PAGE_BYTES / 2 <= sum(len(chunk.body) for chunk in chunks) <= most

    play(scene())


def test_an_outage_reaches_all_who_wait_and_nobody_later() -> None:
    async def scene() -> None:
        reads = Reads(10)
        reads.is_away = True
        replays = Replays(reads)
        outcomes = await asyncio.gather(*(read(replays, session()) for _ in range(3)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [TokenrelayError] * 3
        reads.is_away = False
        assert await read(replays, session())

    play(scene())


def test_a_reader_that_leaves_takes_nobody_with_it() -> None:
    async def scene() -> None:
        reads = Reads(10)
        reads.may_answer.clear()
        replays = Replays(reads)
        leaving, staying = (asyncio.create_task(read(replays, session())) for _ in range(2))
        while not reads.asked:
            await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        reads.may_answer.set()
        assert await staying

    play(scene())


def test_what_is_no_longer_in_the_log_is_said() -> None:
    async def scene() -> None:
        with pytest.raises(LookupError):
            await read(Replays(Reads(0)), session())

    play(scene())


@pytest.mark.parametrize("size", [200, 2_000, 60_000])
def test_a_page_for_another_dialect_is_as_small_from_the_first_on(size: int) -> None:
    async def scene() -> None:
        replays, reader = Replays(Reads(20_000, text="x" * size)), session()
        for _ in range(3):
            page = await replays.entries(reader)
            assert sum(len(entry[3]) for _, entry in page) <= max(2 * PAGE_BYTES, size)
            reader.cursor = page[-1][0]

    play(scene())
