"""Who may take what waits: a claim takes the oldest that its worker can answer, and what it cannot blocks nobody.

Streams are named in the order in which they come: two of the same millisecond are taken by their names.
"""

from __future__ import annotations

import msgspec
import pytest

from tests.contract.store import RETENTION_MS, ROOMY, UNREADABLE, Store
from tokenrelay.protocol.store import keys, scripts
from tokenrelay.protocol.store.scripts import NewStream, ReapReply

BOTH = ("large", "small")


def ids(claims: list[scripts.Claim]) -> list[str]:
    return [claim.stream_id for claim in claims]


def left_of_queue(store: Store) -> set[str]:
    """The keys in which something waits."""
    return {name.decode() for name in store.redis.keys("tr:waiting*")} | (
        {keys.NEEDS} if store.redis.exists(keys.NEEDS) else set()
    )


def taken_by_an_earlier_version(store: Store, stream_id: str) -> None:
    """What the claim of the version before did: it knew one set only."""
    store.redis.zrem(keys.WAITING, stream_id)
    store.redis.hset(keys.meta(stream_id), mapping={"state": "running", "epoch": 1, "worker": "old"})
    store.redis.zadd(keys.LEASES, {stream_id: 2_000_000_000_000})


def test_a_worker_takes_what_it_can_answer_and_leaves_the_rest_where_it_was(store: Store) -> None:
    store.start("stream-1-large", models=("large",))
    store.start("stream-2-small", models=("small",))
    store.start("stream-3-either", models=BOTH)
    store.start("stream-4-small", models=("small",))
    before = store.redis.zscore(keys.WAITING, "stream-1-large")
    assert ids(store.claim(models=("small", "other"))) == ["stream-2-small", "stream-3-either", "stream-4-small"]
    assert store.claim(models=("small",)) == []
    assert (store.redis.zscore(keys.WAITING, "stream-1-large"), store.meta("state")) == (before, None)
    assert ids(store.claim(models=("large",))) == ["stream-1-large"]
    assert left_of_queue(store) == set()


def test_however_many_wait_for_others_the_oldest_of_ours_is_found(store: Store) -> None:
    roomy = msgspec.structs.replace(ROOMY, max_waiting=10_000)
    for number in range(600):
        store.start(f"stream-1-large-{number:03}", models=("large",), limits=roomy)
    store.start("stream-2-small", models=("small",), limits=roomy)
    store.start("stream-4-small", models=("small",), limits=roomy)
    assert ids(store.claim(1, models=("small",))) == ["stream-2-small"]
    assert ids(store.claim(1, models=BOTH)) == ["stream-1-large-000"]
    assert store.redis.zcard(keys.WAITING) == 600


def test_over_all_that_we_can_answer_the_oldest_comes_first(store: Store) -> None:
    order = [("a" if number % 3 else "b", f"stream-{number}") for number in range(9)]
    for at, (model, stream_id) in enumerate(order):
        store.start(stream_id, models=(model,))
        for name in (keys.WAITING, keys.waiting_for(scripts.needs([model]))):
            store.redis.zadd(name, {stream_id: at})
    assert ids(store.claim(7, models=("a", "b"))) == [stream_id for _, stream_id in order[:7]]


@pytest.mark.parametrize("how", ["cancel", "late", "release", "lost"])
def test_whatever_becomes_of_it_it_stands_in_its_set_while_it_waits_and_no_longer(store: Store, how: str) -> None:
    store.start(models=("small",))
    its_set = keys.waiting_for(scripts.needs(["small"]))
    assert left_of_queue(store) == {keys.WAITING, its_set, keys.NEEDS}
    if how == "cancel":
        assert store.cancel() == "cancelled"
    elif how == "late":
        assert store.reap(max_wait_ms=-1) == ReapReply(0, 0, 1)
    else:
        assert ids(store.claim(models=("small",))) == ["stream-1"]
        assert left_of_queue(store) == set()
        assert store.release() if how == "release" else store.reap_twice() == ReapReply(0, 1, 0)
        assert left_of_queue(store) == {keys.WAITING, its_set, keys.NEEDS}
        assert store.claim(models=("large",)) == []
        assert [claim.epoch for claim in store.claim(models=("small",))] == [2]
        assert store.append(1, b"end", epoch=2, end="completed").outcome == "ok"
    assert left_of_queue(store) == set()
    assert store.meta("needs") is None


def test_starts_of_an_earlier_version_are_anybodys_wherever_they_stand(store: Store) -> None:
    """They do not say what they need."""
    roomy = msgspec.structs.replace(ROOMY, max_waiting=10_000)
    store.start("stream-1-old", limits=roomy)
    for number in range(600):
        store.start(f"stream-1-large-{number:03}", models=("large",), limits=roomy)
    store.start("stream-5-old", limits=roomy)
    store.start("stream-6-small", models=("small",), limits=roomy)
    assert ids(store.claim(2, models=("small",))) == ["stream-1-old", "stream-5-old"]
    assert ids(store.claim(models=("small",))) == ["stream-6-small"]


def test_what_a_worker_of_an_earlier_version_took_is_not_taken_again(store: Store) -> None:
    store.start("taken", models=("small",))
    store.start("stream-1", models=("small",))
    taken_by_an_earlier_version(store, "taken")
    assert ids(store.claim(models=("small",))) == ["stream-1"]
    assert store.redis.hget(keys.meta("taken"), "worker") == b"old"
    assert store.redis.zscore(keys.LEASES, "taken") == 2_000_000_000_000
    store.claim(models=("small",))
    assert left_of_queue(store) == set()


def test_a_set_that_redis_lost_is_made_again(store: Store) -> None:
    store.start(models=("small",))
    store.redis.delete(keys.NEEDS, keys.waiting_for(scripts.needs(["small"])))
    assert store.claim(models=("large",)) == []
    assert ids(store.claim(models=("small",))) == ["stream-1"]


@pytest.mark.parametrize("needs", ["{", "7", "[[", '{"a": "small"}', "\xff"])
def test_needs_that_cannot_be_read_are_anybodys_or_their_own(store: Store, needs: str) -> None:
    """Whoever takes it says what is wrong with it; nothing waits for ever and no claim fails."""
    new = NewStream("stream-1", "alice", "m", b"prompt", "continue", None, "b", needs=needs)
    store.run(scripts.START, scripts.start(new, ROOMY, job=b"job", job_ttl_ms=99_000, retention_ms=RETENTION_MS))
    assert ids(store.claim(models=("small",))) == ["stream-1"]


def test_a_generation_that_cannot_be_read_ends_in_its_set_too(store: Store) -> None:
    store.start(models=("small",))
    store.redis.hdel(keys.meta("stream-1"), "request")
    assert store.claim(models=("small",)) == []
    assert store.entries() == [UNREADABLE]
    assert left_of_queue(store) == set()
