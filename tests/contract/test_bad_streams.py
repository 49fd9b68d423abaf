"""Metadata and queue items that no script of ours writes: each costs its own stream, in words, and no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.store import LATE, LOST, STARTED, UNREADABLE, Store, token
from tokenrelay.protocol.store import keys
from tokenrelay.protocol.store.scripts import ReapReply

BAD = "bad-stream"
META = keys.meta(BAD)


def without(field: str) -> Callable[[Any], None]:
    return lambda redis: redis.hdel(META, field)


def with_value(field: str, value: str) -> Callable[[Any], None]:
    return lambda redis: redis.hset(META, field, value)


def of_another_kind(redis: Any) -> None:
    redis.delete(META)
    redis.rpush(META, "no hash")


SPOILT: dict[str, Callable[[Any], None]] = {
    **{f"no {field}": without(field) for field in ("epoch", "last", "created", "model", "on_disconnect", "request")},
    **{f"{field} nan": with_value(field, "nan") for field in ("epoch", "last", "created")},
    **{f"{field} huge": with_value(field, "9" * 30) for field in ("epoch", "last", "created")},
    "active is a key of another kind": with_value("active", "tr:waiting-not"),
    "metadata of another kind": of_another_kind,
    "metadata gone": lambda redis: redis.delete(META),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_a_queued_generation_that_cannot_be_read_ends_and_the_next_is_claimed(
    store: Store, spoil: Callable[[Any], None]
) -> None:
    store.start(BAD)
    store.redis.set("tr:waiting-not", "x")
    spoil(store.redis)
    store.start("good-stream")
    claimed = [claim.stream_id for claim in store.claim()]
    assert "good-stream" in claimed
    assert store.redis.zscore(keys.WAITING, BAD) is None
    if BAD not in claimed and store.redis.type(META) == b"hash":
        assert [entry for _, entry in store.log(BAD)] == [UNREADABLE]
        assert store.redis.hget(META, "state") == b"failed"


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_an_overdue_generation_that_cannot_be_read_is_ended_and_the_next_is_judged(
    store: Store, spoil: Callable[[Any], None]
) -> None:
    store.start(BAD)
    store.start("good-stream")
    store.claim()
    store.append(1, STARTED, token(1), stream_id="good-stream")
    spoil(store.redis)
    for _ in range(2):
        store.overdue(BAD)
        store.overdue("good-stream")
        store.reap()
    assert store.redis.zcard(keys.LEASES) == 0
    assert store.log("good-stream")[-1][1] == LOST


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_one_that_waited_too_long_is_taken_out_whatever_it_is(store: Store, spoil: Callable[[Any], None]) -> None:
    store.start(BAD)
    spoil(store.redis)
    store.start("good-stream")
    assert isinstance(store.reap(max_wait_ms=-1), ReapReply)
    assert store.redis.zcard(keys.WAITING) == 0
    assert store.log("good-stream")[-1][1] == LATE


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_a_lease_is_renewed_beside_one_that_cannot_be_read(store: Store, spoil: Callable[[Any], None]) -> None:
    store.start(BAD)
    store.start("good-stream")
    store.claim()
    spoil(store.redis)
    assert "good-stream" not in store.renew((BAD, 1), ("good-stream", 1)).lost


def test_an_end_is_written_after_what_the_log_has_where_the_metadata_has_lost_count(store: Store) -> None:
    store.start(BAD)
    store.claim()
    store.append(1, STARTED, token(1), stream_id=BAD)
    store.redis.hdel(META, "last")
    for _ in range(2):
        store.overdue(BAD)
        store.reap()
    assert [entry_id for entry_id, _ in store.log(BAD)] == [b"1-0", b"2-0", b"3-0"]
    assert store.redis.hget(META, "state") == b"failed"


def test_a_user_who_may_not_publish_leaves_nothing_half_done(store: Store) -> None:
    """Every script that publishes does so last, and goes on without: who listens finds it in the log."""
    redis = store.redis
    redis.acl_setuser("app", enabled=True, nopass=True, keys=["*"], commands=["+@all"], reset_channels=True)
    redis.execute_command("AUTH", "app", "x")
    try:
        assert store.start(BAD).outcome == "started"
        [claim] = store.claim()
        assert store.append(1, STARTED, token(1), stream_id=BAD).outcome == "ok"
        assert store.cancel(BAD) == "cancelling"
        assert store.renew((BAD, claim.epoch)).cancelled == {BAD}
        assert store.append(3, b"end", stream_id=BAD, end="cancelled").outcome == "ok"
        assert redis.hget(META, "state") == b"cancelled"
        store.start("other-stream")
        assert store.cancel("other-stream") == "cancelled"
        assert redis.hget(keys.meta("other-stream"), "state") == b"cancelled"
    finally:
        redis.execute_command("AUTH", "default", "x")
        redis.acl_deluser("app")
