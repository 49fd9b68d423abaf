"""The bytes beside a request, on a real Redis: room is counted, they live as long as their generation, nothing is
left."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.contract.store import RETENTION_MS, ROOMY, STARTED, Store, token
from tests.fleet import Fleet
from tests.stores import open_store
from tokenrelay.protocol.store import keys, scripts
from tokenrelay.protocol.store.scripts import Limits, NewStream, StartReply
from tokenrelay.server.store.log import LogReader

BLOBS = [b"first", b"second"]
END = token(9)  # whatever it says


def name_of(stream_id: str = "stream-1", owner: str = "alice") -> str:
    return scripts.held_parts(stream_id, owner, [len(blob) for blob in BLOBS])


def hold(store: Store, held: str, most: int = 1_000, most_of_owner: int = 100) -> bool:
    return scripts.hold_reply(store.run(scripts.HOLD, scripts.hold(held, most, most_of_owner)))


def write(store: Store, stream_id: str = "stream-1") -> None:
    for number, blob in enumerate(BLOBS):
        store.redis.set(keys.part(stream_id, number), blob, px=scripts.HOLD_MS)


def start(store: Store, limits: Limits = ROOMY, key: str | None = None, **more: Any) -> StartReply:
    new = NewStream("stream-1", "alice", "m", b"prompt", "continue", key, "b", parts=name_of(), **more)
    arguments = scripts.start(new, limits, job=b"job", job_ttl_ms=99_000, retention_ms=RETENTION_MS)
    return scripts.start_reply(store.run(scripts.START, arguments))


def ready(store: Store) -> None:
    assert hold(store, name_of())
    write(store)


def left(store: Store) -> set[bytes]:
    """Every name in Redis that has to do with parts."""
    return {name for name in store.redis.scan_iter("*") if b"part" in name}


def counted(store: Store) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = store.redis.hgetall(keys.PARTS_BYTES)
    return found


def test_parts_live_as_long_as_the_metadata_once_they_have_a_generation(store: Store) -> None:
    ready(store)
    assert 0 < store.redis.pttl(keys.part("stream-1", 1)) <= scripts.HOLD_MS
    assert start(store).outcome == "started"
    for number in (0, 1):
        lives = store.redis.pttl(keys.part("stream-1", number))
        assert RETENTION_MS + scripts.TOMBSTONE_MS - 5_000 < lives <= RETENTION_MS + scripts.TOMBSTONE_MS
    assert store.redis.get(keys.part("stream-1", 1)) == BLOBS[1]
    assert counted(store) == {b"all": b"11", keys.digest("alice").encode(): b"11"}


def test_a_worker_that_takes_it_again_finds_them_again(store: Store) -> None:
    ready(store)
    start(store)
    store.claim()
    store.append(1, STARTED)
    assert store.release()
    assert store.claim()[0].epoch == 2
    assert store.redis.get(keys.part("stream-1", 0)) == BLOBS[0]


ENDS = ["completed", "cancelled while it ran", "cancelled before", "its worker died", "nobody took it"]


@pytest.mark.parametrize("end", ENDS)
def test_after_the_end_nothing_of_them_is_left(store: Store, end: str) -> None:
    ready(store)
    start(store)
    match end:
        case "completed" | "cancelled while it ran":
            store.claim()
            store.append(1, STARTED, token(0), END, end=end.partition(" ")[0])
        case "cancelled before":
            assert store.cancel() == "cancelled"
        case "its worker died":
            store.claim()
            store.append(1, STARTED, token(0))
            assert store.reap_twice().lost == 1
        case "nobody took it":
            assert store.reap(max_wait_ms=-1_000).late == 1
    assert store.meta("state") in ("completed", "cancelled", "failed")
    assert store.meta("parts") is None
    assert left(store) == set()


@pytest.mark.parametrize("number", [0, 1])
def test_a_part_that_is_missing_is_told_and_nothing_is_made(store: Store, number: int) -> None:
    ready(store)
    store.redis.delete(keys.part("stream-1", number))
    assert start(store).outcome == "lost"
    assert not store.redis.exists(keys.meta("stream-1"), keys.WAITING)


def test_what_was_refused_is_dropped(store: Store) -> None:
    ready(store)
    assert start(store, Limits(0)).outcome == "overloaded"
    store.run(scripts.DROP, scripts.drop(name_of()))
    assert left(store) == set()


def test_a_generation_that_was_made_keeps_its_parts(store: Store) -> None:
    """The edge that did not hear that it was made wants them dropped."""
    ready(store)
    start(store)
    store.run(scripts.DROP, scripts.drop(name_of()))
    assert store.redis.get(keys.part("stream-1", 0)) == BLOBS[0]
    assert start(store).outcome == "started"


def test_room_is_bounded_for_all_and_for_each_owner(store: Store) -> None:
    assert hold(store, name_of("stream-1"), 30, 11)
    assert not hold(store, name_of("stream-2"), 30, 21), "of one owner"
    assert hold(store, name_of("stream-3", "bob"), 30, 11)
    assert not hold(store, name_of("stream-4", "carol"), 30, 11), "of all"
    assert hold(store, name_of("stream-1"), 30, 11), "asked again, counted once"
    assert counted(store)[b"all"] == b"22"
    store.run(scripts.DROP, scripts.drop(name_of("stream-1")))
    assert hold(store, name_of("stream-4", "carol"), 30, 11)


def test_room_that_nobody_came_back_for_is_free_again(store: Store) -> None:
    ready(store)
    store.redis.zadd(keys.PARTS, {name_of(): 1})  # its minute is over
    assert hold(store, name_of("stream-2"), 11, 11)
    store.redis.zadd(keys.PARTS, {name_of("stream-2"): 1})
    store.reap()
    assert left(store) == set()


@pytest.mark.parametrize("held", ["", "rubbish", "1:1:zz:stream-1", "1:1:aa:no id"])
def test_what_is_no_name_of_parts_does_no_harm(store: Store, held: str) -> None:
    ready(store)
    start(store)
    store.redis.hset(keys.meta("stream-1"), "parts", held)
    assert store.cancel() == "cancelled"
    assert store.meta("state") == "cancelled"


def test_a_request_without_parts_holds_nothing(store: Store) -> None:
    assert scripts.held_parts("stream-1", "alice", []) == ""
    store.start()
    store.cancel()
    assert left(store) == set()


def test_a_chat_leads_to_its_newest_stream(store: Store, fleet: Fleet) -> None:
    ready(store)
    assert start(store, chat_id="chat 1", front=b"front").outcome == "started"
    name = keys.chat("alice", "chat 1")
    assert store.redis.get(name) == b"stream-1"
    assert 0 < store.redis.pttl(name) <= RETENTION_MS + scripts.TOMBSTONE_MS
    store.cancel()
    assert store.meta("front") == "front", "it is needed as long as the log is read"
    assert store.redis.get(name) == b"stream-1"

    async def scene() -> None:
        redis = open_store(fleet.redis_url)
        reads = LogReader(redis)
        found = await reads.describe("stream-1")
        assert found is not None
        assert found.front == b"front"
        assert await reads.of_chat("alice", "chat 1") == "stream-1"
        assert await reads.of_chat("bob", "chat 1") is None
        await redis.aclose()

    asyncio.run(scene())
    assert keys.chat("alice", "chat 1") != keys.chat("alicechat", " 1")
