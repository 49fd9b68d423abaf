"""Whoever ends a stream also queues its webhook, in the same step; a webhook is somebody's until it is delivered."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.contract.store import RETENTION_MS, ROOMY, STARTED, Store, token
from tokenrelay.protocol.store import keys, scripts
from tokenrelay.protocol.store.scripts import DueReply, Ended, NewStream

STREAM = "stream-1"


def begin(store: Store, *, must_notify: bool = True) -> None:
    new = NewStream(STREAM, "alice", "m", b"prompt", "continue", None, "b", metadata=b"m", must_notify=must_notify)
    arguments = scripts.start(new, ROOMY, job=b"job", job_ttl_ms=99_000, retention_ms=RETENTION_MS)
    assert scripts.start_reply(store.run(scripts.START, arguments)).outcome == "started"


def due(store: Store, lease_ms: int = 60_000) -> DueReply:
    return scripts.due_reply(store.run(scripts.DUE, scripts.due(10, lease_ms)))


def notified(store: Store, again_ms: int | None = None, retention_ms: int = RETENTION_MS) -> None:
    store.run(scripts.NOTIFIED, scripts.notified(STREAM, again_ms, retention_ms))


def completed(store: Store) -> None:
    store.claim()
    store.append(1, STARTED, token(0), end="completed")


def lost(store: Store) -> None:
    store.claim()
    store.append(1, STARTED, token(0))
    assert store.reap_twice().lost == 1


def unreadable(store: Store) -> None:
    store.redis.hdel(keys.meta(STREAM), "request")
    assert store.claim() == []


def late(store: Store) -> None:
    store.redis.zadd(keys.WAITING, {STREAM: 1})
    assert store.reap().late == 1


WAYS: dict[str, Callable[[Store], object]] = {
    "by its worker": completed, "cancelled while it waits": Store.cancel, "worker gone": lost,
    "unreadable": unreadable, "waited too long": late,
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_every_end_queues_the_webhook_once(store: Store, way: str) -> None:
    begin(store)
    assert due(store).taken == []
    WAYS[way](store)
    [ended] = due(store).taken
    assert (ended.stream_id, ended.tries) == (STREAM, 1)
    assert due(store).taken == [], "somebody else has it"


def test_without_a_webhook_nothing_is_queued(store: Store) -> None:
    begin(store, must_notify=False)
    completed(store)
    assert due(store) == DueReply([], 0, 0)
    assert store.redis.pttl(keys.log(STREAM)) <= RETENTION_MS


def test_one_whose_edge_dies_is_due_again(store: Store) -> None:
    begin(store)
    completed(store)
    assert due(store, lease_ms=0).taken[0].tries == 1
    assert due(store).taken[0].tries == 2


def test_one_that_failed_is_due_later_and_one_that_arrived_is_gone(store: Store) -> None:
    begin(store)
    completed(store)
    due(store)
    notified(store, again_ms=60_000)
    assert due(store).taken == []
    notified(store, again_ms=0)
    assert [ended.tries for ended in due(store).taken] == [2]
    notified(store)
    notified(store, again_ms=0)
    assert due(store) == DueReply([], 0, 0)
    assert store.meta("notify") is None


def test_the_log_stays_for_its_webhook_and_then_for_the_rest_of_its_retention(store: Store) -> None:
    begin(store)
    completed(store)
    assert store.redis.pttl(keys.log(STREAM)) > RETENTION_MS
    due(store)
    notified(store)
    assert 0 < store.redis.pttl(keys.log(STREAM)) <= RETENTION_MS
    begin_again = keys.log(STREAM)
    store.redis.zadd(keys.ENDED, {STREAM: 0})
    notified(store, retention_ms=0)
    assert not store.redis.exists(begin_again), "its retention was over"


def test_a_deleted_stream_is_not_sent(store: Store) -> None:
    begin(store)
    completed(store)
    store.run(scripts.FORGET, scripts.forget(STREAM))
    assert due(store) == DueReply([], 0, 0)


def test_one_deleted_while_it_ran_is_not_sent(store: Store) -> None:
    begin(store)
    store.claim()
    store.run(scripts.FORGET, scripts.forget(STREAM))
    store.append(1, STARTED, token(0), end="completed")
    assert due(store) == DueReply([], 0, 0)


def test_a_full_queue_drops_and_counts(store: Store) -> None:
    store.redis.zadd(keys.ENDED, {f"other-{number}": 2**50 for number in range(scripts.MAX_ENDED)})
    begin(store)
    completed(store)
    assert due(store) == DueReply([], scripts.MAX_ENDED, 1)
    assert due(store).dropped == 0, "told once"
    assert store.redis.pttl(keys.log(STREAM)) <= RETENTION_MS


def test_what_has_no_metadata_any_more_leaves_the_queue(store: Store) -> None:
    store.redis.zadd(keys.ENDED, {"nowhere-1": 0, "another-1": 0})
    store.redis.set(keys.meta("another-1"), "no hash")
    assert due(store) == DueReply([], 0, 0)


def test_the_age_is_told_by_redis(store: Store) -> None:
    begin(store)
    completed(store)
    store.redis.hset(keys.meta(STREAM), "ended", 1)
    [ended] = due(store).taken
    assert isinstance(ended, Ended)
    assert ended.age_ms > 10**12
