"""What waits is bounded in bytes, and by owner; what is refused costs Redis the same however much there is."""

from __future__ import annotations

from typing import Any

from tests.contract.store import RETENTION_MS, STARTED, Store
from tokenrelay.protocol.store import keys, scripts
from tokenrelay.protocol.store.scripts import Limits, NewStream, StartReply


def start(store: Store, owner: str, name: str, size: int, limits: Limits) -> StartReply:
    new = NewStream(name, owner, "m", b"x" * size, "continue", None, "b")
    arguments = scripts.start(new, limits, job=b"job", job_ttl_ms=99_000, retention_ms=RETENTION_MS)
    return scripts.start_reply(store.run(scripts.START, arguments))


def outcomes(store: Store, owner: str, number: int, size: int, limits: Limits) -> list[str]:
    return [start(store, owner, f"{owner}-stream-{n}", size, limits).outcome for n in range(number)]


def test_requests_that_wait_are_bounded_in_bytes(store: Store) -> None:
    limits = Limits(10_000, max_bytes=1_000_000)
    assert outcomes(store, "alice", 12, 100_000, limits) == ["started"] * 10 + ["overloaded"] * 2
    assert start(store, "alice", "small-stream", 10, limits).outcome == "overloaded"
    store.claim(1)
    assert start(store, "alice", "next-stream", 100_000, limits).outcome == "started"


def test_one_owner_fills_its_share_and_leaves_the_rest_to_others(store: Store) -> None:
    limits = Limits(10, share_percent=50)
    assert outcomes(store, "alice", 7, 1, limits) == ["started"] * 5 + ["share"] * 2
    assert outcomes(store, "bob", 3, 1, limits) == ["started"] * 3
    limits = Limits(100, max_bytes=1_000, share_percent=50)
    assert start(store, "bob", "large-stream", 600, limits).outcome == "share"


def test_a_queue_of_one_place_takes_one(store: Store) -> None:
    limits = Limits(1, max_bytes=10, share_percent=10)
    assert outcomes(store, "alice", 2, 1_000, limits) == ["started", "overloaded"]


def test_whatever_becomes_of_those_that_wait_the_count_is_right(store: Store) -> None:
    limits = Limits(100, max_bytes=10_000, share_percent=50)
    outcomes(store, "alice", 4, 100, limits)
    assert {int(value) for value in store.redis.hvals(keys.QUEUED)} == {400, 4}
    [claim] = store.claim(1)
    store.run(scripts.RELEASE, scripts.release(claim.stream_id, claim.epoch))
    assert {int(value) for value in store.redis.hvals(keys.QUEUED)} == {400, 4}
    store.cancel("alice-stream-1")
    store.redis.delete(keys.meta("alice-stream-2"))  # Redis lost it
    store.claim(10)
    store.append(1, STARTED, stream_id="alice-stream-0", end="completed")
    assert store.redis.zcard(keys.WAITING) == 0
    start(store, "bob", "first-again", 100, limits)
    assert {int(value) for value in store.redis.hvals(keys.QUEUED)} == {100, 1}
    store.reap(max_wait_ms=-1)
    assert store.redis.exists(keys.QUEUED) == 0


def calls(redis: Any) -> int:
    return sum(row["calls"] for row in redis.info("commandstats").values())


def test_refusing_a_key_at_its_limit_costs_the_same_however_many_it_has_under_way(store: Store) -> None:
    costs = []
    for most in (30, 3_000):
        limits = Limits(10_000, max_active=most)
        outcomes(store, f"owner-{most}", most, 1, limits)
        before = calls(store.redis)
        assert start(store, f"owner-{most}", "one-more-stream", 1, limits).outcome == "busy"
        costs.append(calls(store.redis) - before)
    assert costs[0] == costs[1] < 100


def test_streams_that_redis_lost_are_found_a_few_at_each_refusal(store: Store) -> None:
    limits = Limits(10_000, max_active=200)
    outcomes(store, "alice", 200, 1, limits)
    store.redis.delete(keys.meta("alice-stream-150"))
    tries = [start(store, "alice", f"another-{n}", 1, limits).outcome for n in range(20)]
    assert tries.count("started") == 1


def test_what_a_refused_and_a_short_stream_leave_is_small(store: Store) -> None:
    redis = store.redis
    redis.set("warm", 1)
    before = set(redis.keys("*"))
    assert start(store, "a" * 256, "refused-stream", 1_000_000, Limits(0)).outcome == "overloaded"
    assert set(redis.keys("*")) == before
    start(store, "a" * 256, "short-stream", 1_000_000, Limits(10))
    store.claim()
    store.append(1, STARTED, b"end", stream_id="short-stream", end="completed")
    left = [key for key in set(redis.keys("*")) - before if not key.endswith(b":log")]  # that goes after its retention
    assert sum(redis.memory_usage(key) for key in left) < 2_000
