"""The hub on a real Redis whose words get lost: every entry reaches the reader all the same, once and in order.

The test is the worker: it appends through the scripts, or behind their back where a publication is to be lost.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import pytest

from tests.contract.store import STARTED, Store, token
from tests.fleet import Fleet
from tests.stores import open_store
from tokenrelay.protocol.events import Completion, Token
from tokenrelay.protocol.reading.session import STUCK_S, Session, Step
from tokenrelay.protocol.store import keys
from tokenrelay.protocol.store.entries import Entry, event_of, pack, unpack_entry
from tokenrelay.protocol.wire import formats
from tokenrelay.server.live import channel as channel_module
from tokenrelay.server.live import presubscribed
from tokenrelay.server.live.channel import Channel
from tokenrelay.server.live.hub import Hub
from tokenrelay.server.metrics import Metrics
from tokenrelay.server.store.log import LogReader

END = pack(Completion(1, "m", "m", "p", "stop", 0, 0, 0.0))
PATIENCE_S = 20


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet(edges=0, workers=0) as started:
        yield started


class Reader:
    """A transport without a socket: takes what the hub has, as a real one would."""

    def __init__(self, channel: Channel, reads: LogReader, cursor: int = 0) -> None:
        self.session = Session(channel.feed.stream_id, cursor, is_compact=False, now=0.0)
        self.text = ""
        self._channel, self._reads = channel, reads
        self._woken = asyncio.Event()

    def wake(self) -> None:
        self._woken.set()

    def is_stuck(self, now: float) -> bool:
        return self.session.is_stuck(now)

    async def run(self) -> str:
        """To the end of the stream; every id is checked to be the next one."""
        while (step := self.session.next_step(self._channel.feed)) is not Step.CLOSE:
            if step is Step.TAKE:
                before = self.session.cursor
                chunk = self._channel.feed.after(before, formats.SSE)
                assert chunk is not None
                assert chunk.cursor == before + chunk.count
                self.session.took(chunk)
                self.text += chunk.body.decode()
            elif step is Step.READ_LOG:
                first, entries = await self._reads.page(self.session.stream_id, self.session.cursor)
                for chunk in self.session.chunks(first, entries, formats.SSE):
                    self.session.took(chunk)
                    self.text += chunk.body.decode()
            else:
                self._woken.clear()
                async with asyncio.timeout(PATIENCE_S):
                    await self._woken.wait()
        return self.text


Scene = Callable[[Hub, LogReader, Store], Coroutine[Any, Any, None]]


def play(fleet: Fleet, scene: Scene, reads_of: Callable[[Any], LogReader] = LogReader) -> None:
    async def main() -> None:
        store = Store(fleet.redis())
        store.redis.flushall()
        store.start()
        store.claim()
        redis = open_store(fleet.redis_url)
        reads = reads_of(redis)
        hub = Hub(redis, reads, Metrics())
        try:
            async with hub.running():
                async with asyncio.timeout(PATIENCE_S):
                    while math.isinf(hub.probe_age_s):  # else its first connecting would make good what is tested
                        await asyncio.sleep(0.01)
                await scene(hub, reads, store)
        finally:
            await redis.aclose()
            store.redis.close()

    asyncio.run(main())


def silently(store: Store, first: int, *entries: bytes) -> None:
    """Into the log, but the publication is lost."""
    for number, entry in enumerate(entries, first):
        store.redis.xadd(keys.log("stream-1"), {"e": entry}, id=f"{number}-0")
    store.redis.hset(keys.meta("stream-1"), "last", first + len(entries) - 1)


def ids_in(text: str) -> list[int]:
    return [int(line[4:]) for line in text.splitlines() if line.startswith("id: ")]


async def reading(hub: Hub, reads: LogReader, cursor: int = 0) -> asyncio.Task[str]:
    channel = await hub.open("stream-1")
    reader = Reader(channel, reads, cursor)
    hub.join(channel, reader)
    return asyncio.create_task(reader.run())


@pytest.fixture
def never_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No looking at the log out of caution: what is tested has to find it by itself."""
    monkeypatch.setattr(channel_module, "QUIET_S", 1e9)


@pytest.mark.usefixtures("never_quiet")
def test_a_publication_that_got_lost_is_found_by_the_next_one(fleet: Fleet) -> None:
    async def scene(hub: Hub, reads: LogReader, store: Store) -> None:
        task = await reading(hub, reads)
        store.append(1, STARTED, token(0))
        silently(store, 3, token(1), token(2))
        store.append(5, token(3), END, end="completed")
        assert ids_in(await task) == [1, 2, 3, 4, 5, 6]

    play(fleet, scene)


def test_a_publication_that_got_lost_at_the_end_is_found_after_a_quiet_spell(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "QUIET_S", 0.1)

    async def scene(hub: Hub, reads: LogReader, store: Store) -> None:
        task = await reading(hub, reads)
        store.append(1, STARTED)
        silently(store, 2, token(0), END)
        assert ids_in(await task) == [1, 2, 3]

    play(fleet, scene)


class AppendsWhileReading(LogReader):
    """Between the reading of the last id and the anchor an entry is written and published."""

    store: Store

    async def last_ids(self, stream_ids: Sequence[str]) -> list[int | None]:
        found = await super().last_ids(stream_ids)
        if found == [1]:
            self.store.append(2, token(0), END, end="completed")
        return found


@pytest.mark.usefixtures("never_quiet")
def test_what_is_written_between_subscribing_and_reading_is_not_lost(fleet: Fleet) -> None:
    """Broken by reading the log before the subscription is acknowledged."""

    async def scene(hub: Hub, reads: LogReader, store: Store) -> None:
        assert isinstance(reads, AppendsWhileReading)
        reads.store = store
        store.append(1, STARTED)
        task = await reading(hub, reads, cursor=1)  # one that has entry 1 has no reason to read the log
        assert ids_in(await task) == [2, 3]

    play(fleet, scene, AppendsWhileReading)


@pytest.mark.usefixtures("never_quiet")
def test_what_is_written_while_the_live_feed_is_away_is_read_from_the_log(fleet: Fleet) -> None:
    async def scene(hub: Hub, reads: LogReader, store: Store) -> None:
        task = await reading(hub, reads)
        store.append(1, STARTED)
        # Cut and write within one transaction: nobody is subscribed when it is published.
        pipe = store.redis.pipeline(transaction=True)
        pipe.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        pipe.execute()
        store.append(2, token(0), END, end="completed")
        assert ids_in(await task) == [1, 2, 3]

    play(fleet, scene)


@pytest.mark.usefixtures("never_quiet")
def test_a_thousand_readers_share_one_encoding(fleet: Fleet) -> None:
    async def scene(hub: Hub, reads: LogReader, store: Store) -> None:
        tasks = [await reading(hub, reads) for _ in range(1000)]
        store.append(1, STARTED, *(token(number) for number in range(50)))
        store.append(52, END, end="completed")
        texts = await asyncio.gather(*tasks)
        assert len(set(texts)) == 1
        assert ids_in(texts[0]) == list(range(1, 53))
        assert event_of(unpack_entry(token(0))) == Token(1, "m", "w0 ")

    play(fleet, scene)


def test_a_log_that_redis_lost_is_said_to_be_lost(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "QUIET_S", 0.1)

    async def scene(hub: Hub, reads: LogReader, store: Store) -> None:
        channel = await hub.open("stream-1")
        reader = Reader(channel, reads)
        hub.join(channel, reader)
        store.append(1, STARTED)
        store.redis.flushall()
        async with asyncio.timeout(PATIENCE_S):
            while not channel.is_lost:
                await asyncio.sleep(0.05)

    play(fleet, scene)


def test_the_last_reader_to_leave_closes_the_channel(fleet: Fleet) -> None:
    async def scene(hub: Hub, reads: LogReader, store: Store) -> None:
        channel = await hub.open("stream-1")
        first, second = Reader(channel, reads), Reader(channel, reads)
        hub.join(channel, first)
        hub.join(await hub.open("stream-1"), second)
        assert hub.readers == 2
        hub.leave(channel, first)
        assert await hub.open("stream-1") is channel
        hub.leave(channel, second)
        assert store.redis.pubsub_numsub(keys.live("stream-1"))[0][1] == 1  # for the one who is coming
        hub.leave(channel)
        async with asyncio.timeout(PATIENCE_S):
            while store.redis.pubsub_numsub(keys.live("stream-1"))[0][1]:
                await asyncio.sleep(0.01)
        assert await hub.open("stream-1") is not channel

    play(fleet, scene)


def test_streams_that_are_made_here_are_heard_from_their_first_entry_also_more_than_were_prepared(fleet: Fleet) -> None:
    async def scene(hub: Hub, reads: LogReader, store: Store) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(store.redis.pubsub_channels("tr:*:live")) < presubscribed.MOST:
                await asyncio.sleep(0.01)
            channels = [await hub.create() for _ in range(presubscribed.MOST + 5)]
        readers = []
        for channel in channels:
            reader = Reader(channel, reads)
            hub.join(channel, reader)
            readers.append(asyncio.create_task(reader.run()))
            store.start(channel.feed.stream_id)
        for claim in store.claim(len(channels)):
            store.append(1, STARTED, token(0), END, end="completed", stream_id=claim.stream_id)
        assert [ids_in(text) for text in await asyncio.gather(*readers)] == [[1, 2, 3]] * len(channels)
        for channel in channels:
            hub.leave(channel, next(iter(channel.readers)))
        names = [channel.name for channel in channels]
        async with asyncio.timeout(PATIENCE_S):
            while any(number for _, number in store.redis.pubsub_numsub(*names)):  # no subscription is left behind
                await asyncio.sleep(0.01)

    play(fleet, scene)


class LatePublication(LogReader):
    """While a page of the log is on its way, the publication that was only late arrives."""

    hub: Hub
    channel: Channel

    async def page(self, stream_id: str, after: int, most: int = 512) -> tuple[int, list[Entry]]:
        first, entries = await super().page(stream_id, after, most)
        self.hub._take(self.channel, first, entries)
        return first, entries


@pytest.mark.usefixtures("never_quiet")
def test_a_gap_that_closes_while_the_log_is_read_is_no_loss(fleet: Fleet) -> None:
    async def scene(hub: Hub, reads: LogReader, store: Store) -> None:
        assert isinstance(reads, LatePublication)
        channel = await hub.open("stream-1")
        reads.hub, reads.channel = hub, channel
        reader = Reader(channel, reads)
        hub.join(channel, reader)
        task = asyncio.create_task(reader.run())
        store.append(1, STARTED, token(0))
        silently(store, 3, token(1))
        store.append(4, token(2))
        async with asyncio.timeout(PATIENCE_S):
            while channel.feed.last < 4:
                await asyncio.sleep(0.01)
        store.append(5, END, end="completed")
        assert ids_in(await task) == [1, 2, 3, 4, 5]
        assert not channel.is_lost

    play(fleet, scene, LatePublication)


def test_a_channel_opened_before_its_stream_is_made_is_not_lost(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "QUIET_S", 0.0)

    async def scene(hub: Hub, reads: LogReader, store: Store) -> None:
        channel = await hub.open("stream-2", is_new=True)
        await hub._ask_logs([channel])
        assert not channel.is_lost
        store.start("stream-2")
        hub.join(channel, Reader(channel, reads))
        await hub._ask_logs([channel])
        assert not channel.is_lost
        store.redis.flushall()
        await hub._ask_logs([channel])
        assert channel.is_lost

    play(fleet, scene)


def test_an_answer_from_before_a_stream_was_made_is_no_loss(fleet: Fleet) -> None:
    """The live feed comes back while a stream is being started; what it asked then is answered late."""
    asked, gate = asyncio.Event(), asyncio.Event()

    class Slow(LogReader):
        async def last_ids(self, stream_ids: Sequence[str]) -> list[int | None]:
            answer = await super().last_ids(stream_ids)
            asked.set()
            await gate.wait()
            return answer

    async def scene(hub: Hub, reads: LogReader, store: Store) -> None:
        channel = await hub.open("stream-2", is_new=True)
        store.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        async with asyncio.timeout(PATIENCE_S):
            await asked.wait()
            assert store.start("stream-2").outcome == "started"
            hub.join(channel, Reader(channel, reads, 0))
            gate.set()
            await hub.open("stream-2")  # what was asked before this is answered before it
            await asyncio.gather(*hub._tasks)
        assert not channel.is_lost

    play(fleet, scene, Slow)


def test_a_reader_whose_write_has_waited_for_a_second_does_not_hold_the_window(fleet: Fleet) -> None:
    async def scene(hub: Hub, reads: LogReader, store: Store) -> None:
        channel = await hub.open("stream-2", is_new=True)
        stuck, moving = Reader(channel, reads), Reader(channel, reads)
        stuck.session.sending_since, now = 10.0, 10.0 + STUCK_S
        hub.join(channel, stuck)
        channel.feed.offer(1, [["t", 0, "m", "x" * 100]] * 60)
        channel.trim(now - 0.01)
        assert channel.feed.floor == 0
        channel.trim(now)
        assert (channel.feed.floor, channel.feed.last) == (59, 60)  # the newest stays: it may be the end
        assert stuck.session.next_step(channel.feed) is Step.READ_LOG

        moving.session.cursor = 60
        hub.join(channel, moving)
        channel.feed.offer(61, [["t", 0, "m", "x"]] * 40)
        channel.trim(now)
        assert channel.feed.floor == 60

        # Large tokens come to megabytes within that second: a reader that waits at all does not hold so many.
        stuck.session.cursor, stuck.session.sending_since = 100, now
        channel.feed.offer(101, [["t", 0, "m", "x" * 1000]] * 60)
        assert channel.feed.needs_trim()
        channel.trim(now)
        assert channel.feed.floor == 60  # one that moves still lacks it
        moving.session.cursor = 160
        channel.trim(now)
        assert channel.feed.floor == 159

    play(fleet, scene)
