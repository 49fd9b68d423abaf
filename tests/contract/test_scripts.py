"""What each script promises, on a real Redis: one append at a time, no holes, no repeats, no second writer, no
leftovers."""

from __future__ import annotations

import pytest

from tests.contract.store import CANCELLED, LATE, LOST, ROOMY, STARTED, Store, token
from tokenrelay.protocol import lifecycle
from tokenrelay.protocol.store import entries, keys, scripts
from tokenrelay.protocol.store.scripts import Limits

FIRST, SECOND, THIRD = STARTED, token(0), token(1)


# -- append
# --------------------------------------------------------------------------------------------------------------


def test_entries_get_dense_ids_and_are_published_with_them_at_once(store: Store) -> None:
    store.start()
    store.claim()
    listener = store.redis.pubsub(ignore_subscribe_messages=True)
    listener.subscribe(keys.live("stream-1"))
    listener.get_message(timeout=5)
    reply = store.append(1, FIRST, SECOND)
    assert (reply.outcome, reply.last_id, reply.listeners, reply.cancel_wanted) == ("ok", 2, 1, False)
    assert store.log() == [(b"1-0", FIRST), (b"2-0", SECOND)]
    message = listener.get_message(timeout=5)
    assert entries.unpack_publication(message["data"]) == (
        1,
        [entries.unpack_entry(FIRST), entries.unpack_entry(SECOND)],
    )
    listener.close()


def test_what_is_there_already_is_skipped_and_not_published_again(store: Store) -> None:
    store.start()
    store.claim()
    store.append(1, FIRST, SECOND)
    listener = store.redis.pubsub(ignore_subscribe_messages=True)
    listener.subscribe(keys.live("stream-1"))
    listener.get_message(timeout=5)
    assert store.append(1, FIRST, SECOND).listeners == -1
    assert store.append(2, SECOND, THIRD).last_id == 3
    assert store.entries() == [FIRST, SECOND, THIRD]
    assert entries.unpack_publication(listener.get_message(timeout=5)["data"])[0] == 3
    assert listener.get_message(timeout=0.01) is None
    listener.close()


def test_a_hole_is_told_and_nothing_is_written(store: Store) -> None:
    store.start()
    store.claim()
    store.append(1, FIRST)
    reply = store.append(3, THIRD)
    assert (reply.outcome, reply.last_id) == ("hole", 1)
    assert store.entries() == [FIRST]


@pytest.mark.parametrize("epoch", [0, 2, 99])
def test_another_epoch_writes_nothing(store: Store, epoch: int) -> None:
    store.start()
    store.claim()
    assert store.append(1, FIRST, epoch=epoch).outcome == "fenced"
    assert store.log() == []


def test_after_the_end_nothing_is_written_but_the_end_itself_can_be_sent_again(store: Store) -> None:
    store.start()
    store.claim()
    store.append(1, FIRST, SECOND, end="completed")
    assert store.append(1, FIRST, SECOND, end="completed").outcome == "ok"
    assert store.append(3, THIRD).outcome == "fenced"
    assert store.entries() == [FIRST, SECOND]


def test_a_log_outlives_a_retention_shorter_than_a_renewal_while_it_is_written(store: Store) -> None:
    store.start()
    store.claim()
    log = keys.log("stream-1")

    def append(first: int, entry: bytes, end: str = "") -> None:
        arguments = scripts.append("stream-1", 1, first, [entry], end_state=end, retention_ms=1)
        store.run(scripts.APPEND if end else scripts.APPEND_MORE, arguments)

    append(1, FIRST)
    assert store.redis.pttl(log) > 10_000
    store.redis.persist(log)
    store.run(scripts.RENEW, scripts.renew(60_000, 1, [("stream-1", 1)]))
    assert store.redis.pttl(log) > 10_000
    append(2, SECOND, end="completed")
    assert store.redis.pttl(log) <= 1


def test_the_end_settles_everything(store: Store) -> None:
    store.start(key="k")
    store.claim()
    store.append(1, FIRST, end="completed")
    assert (store.meta("state"), store.meta("request")) == ("completed", None)
    left = {name.decode() for name in store.redis.keys("*")}
    idem = keys.idempotency("alice", "k")
    assert left == {keys.log("stream-1"), keys.meta("stream-1"), keys.owner("alice"), idem}
    assert all(store.redis.pttl(name) > 0 for name in left)


def test_what_is_left_of_an_ended_stream_is_small(store: Store) -> None:
    store.start(prompt=b"p" * 4_000)
    store.claim()
    store.append(1, FIRST)
    assert store.redis.object("ENCODING", keys.meta("stream-1")) == b"hashtable"
    store.append(2, SECOND, end="completed")
    assert store.redis.object("ENCODING", keys.meta("stream-1")) in (b"listpack", b"ziplist")  # Redis 7, Redis 6.2
    assert (store.meta("state"), store.meta("last"), store.meta("owner")) == ("completed", "2", "alice")
    assert store.redis.pttl(keys.meta("stream-1")) > store.redis.pttl(keys.log("stream-1"))


def test_a_log_has_a_time_to_live_from_its_first_entry(store: Store) -> None:
    store.start()
    assert store.redis.pttl(keys.meta("stream-1")) > 0
    store.claim()
    store.append(1, FIRST)
    assert 0 < store.redis.pttl(keys.log("stream-1")) <= 60_000


def test_a_generation_that_redis_forgot_is_gone(store: Store) -> None:
    assert store.append(1, FIRST).outcome == "gone"


def test_a_batch_of_the_largest_size_goes_through(store: Store) -> None:
    store.start()
    store.claim()
    batch = [token(number) for number in range(scripts.MAX_BATCH_ENTRIES)]
    assert store.append(1, *batch).last_id == scripts.MAX_BATCH_ENTRIES
    assert store.entries() == batch


# -- start and claim
# -----------------------------------------------------------------------------------------------------


def test_a_key_starts_one_generation(store: Store) -> None:
    assert store.start("stream-1", key="k").outcome == "started"
    again = store.start("stream-2", key="k")
    assert (again.outcome, again.stream_id) == ("existing", "stream-1")
    assert store.start("stream-3", key="k", body="other").outcome == "conflict"
    assert store.redis.zcard(keys.WAITING) == 1


def test_a_full_queue_takes_nothing_and_leaves_nothing(store: Store) -> None:
    store.start("stream-1")
    before = set(store.redis.keys("*"))
    reply = store.start("stream-2", limits=Limits(max_waiting=1))
    assert (reply.outcome, reply.bound) == ("overloaded", 1)
    assert set(store.redis.keys("*")) == before


def test_a_key_has_no_more_streams_under_way_than_it_may(store: Store) -> None:
    two = Limits(max_waiting=100, max_active=2)
    assert [store.start(f"stream-{n}", limits=two).outcome for n in (1, 2, 3)] == ["started", "started", "busy"]
    store.cancel("stream-1")
    assert [store.start(f"stream-{n}", limits=two).outcome for n in (4, 5)] == ["started", "busy"]
    store.redis.delete(keys.meta("stream-2"))  # Redis lost it: it is not under way
    assert [store.start(f"stream-{n}", limits=two).outcome for n in (6, 7)] == ["started", "busy"]
    assert store.start("stream-8", key="k", limits=ROOMY).outcome == "started"
    assert store.start("stream-9", key="k", limits=two).outcome == "existing"


def test_a_key_starts_no_more_streams_a_minute_than_it_may(store: Store) -> None:
    three = Limits(max_waiting=100, per_minute=3)
    replies = [store.start(f"stream-{number}", limits=three) for number in range(5)]
    assert [reply.outcome for reply in replies] == ["started", "started", "started", "limited", "limited"]
    assert [reply.remaining for reply in replies[:3]] == [2, 1, 0]
    assert 0 < replies[3].retry_ms <= 20_000
    assert store.redis.zcard(keys.WAITING) == 3
    store.redis.set(
        keys.rate("alice"), float(store.redis.get(keys.rate("alice"))) - 20_000
    )  # a third of a minute later
    assert store.start("stream-5", limits=three).outcome == "started"
    assert store.start("stream-6", limits=three).outcome == "limited"


def test_each_generation_is_taken_once_oldest_first_with_its_prompt(store: Store) -> None:
    for number in range(5):
        store.start(f"stream-{number}")
    taken = store.claim(2, worker="a") + store.claim(10, worker="b")
    assert [claim.stream_id for claim in taken] == [f"stream-{number}" for number in range(5)]
    assert {(claim.epoch, claim.last_id, claim.request) for claim in taken} == {(1, 0, b"prompt")}
    assert store.claim() == []
    assert store.redis.zcard(keys.LEASES) == 5


# -- cancel
# --------------------------------------------------------------------------------------------------------------


def test_cancel_ends_what_waits_and_marks_what_runs(store: Store) -> None:
    store.start()
    assert store.cancel() == "cancelled"
    assert store.entries() == [CANCELLED]
    assert store.claim() == []
    assert store.cancel() == "cancelled"
    store.start("stream-2")
    store.claim()
    assert [store.cancel("stream-2"), store.cancel("stream-2")] == ["cancelling", "cancelling"]
    assert store.append(1, FIRST, stream_id="stream-2").cancel_wanted
    assert store.cancel("nothing-9") == ""


# -- leases
# --------------------------------------------------------------------------------------------------------------


def test_renewing_keeps_the_lease_and_the_time_to_live(store: Store) -> None:
    store.start()
    store.claim(lease_ms=1)
    store.append(1, FIRST)
    store.redis.pexpire(keys.log("stream-1"), 500)
    reply = store.renew(("stream-1", 1), ("stream-9", 1))
    assert reply == scripts.RenewReply(lost=frozenset({"stream-9"}), cancelled=frozenset(), heard=frozenset())
    assert store.reap() == scripts.ReapReply(0, 0, 0)
    assert store.redis.pttl(keys.log("stream-1")) > 500
    store.cancel()
    assert store.renew(("stream-1", 1)).cancelled == {"stream-1"}
    assert store.renew(("stream-1", 2)).lost == {"stream-1"}


def test_a_lost_generation_is_suspected_then_ended_and_its_worker_fenced(store: Store) -> None:
    store.start()
    store.claim()
    store.append(1, FIRST, SECOND)
    assert store.reap_twice() == scripts.ReapReply(1, 0, 0)
    assert store.entries() == [FIRST, SECOND, LOST]
    assert (store.meta("state"), store.meta("request")) == ("failed", None)
    assert store.append(3, THIRD).outcome == "fenced"
    assert store.append(4, THIRD, epoch=1).outcome == "fenced"
    assert store.entries() == [FIRST, SECOND, LOST]
    assert store.reap() == scripts.ReapReply(0, 0, 0)


def test_a_worker_that_was_only_suspected_goes_on(store: Store) -> None:
    store.start()
    store.claim()
    store.append(1, FIRST, SECOND)
    store.overdue()
    store.reap()
    store.renew(("stream-1", 1))
    store.overdue()
    assert store.reap() == scripts.ReapReply(0, 0, 0)
    assert store.append(3, THIRD).outcome == "ok"


def test_what_told_nothing_is_started_again_but_not_for_ever(store: Store) -> None:
    store.start()
    for attempt in range(1, lifecycle.MAX_ATTEMPTS):
        [claim] = store.claim()
        assert claim.epoch == attempt
        store.append(1, FIRST, epoch=attempt)
        assert store.reap_twice() == scripts.ReapReply(0, 1, 0)
        assert store.append(2, SECOND, epoch=attempt).outcome == "fenced"
    store.claim()
    assert store.reap_twice() == scripts.ReapReply(1, 0, 0)
    assert store.entries() == [FIRST, LOST]


def test_a_cancelled_generation_is_not_started_again(store: Store) -> None:
    store.start()
    store.claim()
    store.cancel()
    assert store.reap_twice() == scripts.ReapReply(1, 0, 0)


def test_what_waits_too_long_is_ended(store: Store) -> None:
    store.start()
    assert store.reap(max_wait_ms=60_000).late == 0
    assert store.reap(max_wait_ms=-1).late == 1
    assert store.entries() == [LATE]
    assert store.claim() == []


def test_handing_back_is_for_what_told_nothing(store: Store) -> None:
    store.start()
    store.claim()
    store.append(1, FIRST)
    assert not store.release(epoch=2)
    assert store.release()
    assert store.append(2, SECOND).outcome == "fenced"
    [claim] = store.claim()
    assert (claim.epoch, claim.last_id) == (2, 1)
    store.append(2, SECOND, epoch=2)
    assert not store.release(epoch=2)


def test_thinking_is_no_output_however_much_there_is(store: Store) -> None:
    store.start()
    store.claim()
    store.append(1, FIRST, SECOND, SECOND, tells=False)
    assert store.release()
    [claim] = store.claim()
    assert (claim.epoch, claim.last_id) == (2, 3)
    store.append(4, SECOND, epoch=2, tells=False)
    assert store.reap_twice() == scripts.ReapReply(0, 1, 0)
    [claim] = store.claim()
    assert (claim.epoch, claim.last_id) == (3, 4)
    store.append(5, SECOND, epoch=3, tells=True)
    assert not store.release(epoch=3)
    assert store.reap_twice() == scripts.ReapReply(1, 0, 0)


def test_of_an_earlier_versions_worker_everything_counts_as_output(store: Store) -> None:
    """Its scripts write no word of it, also where this version's worker had the generation before it."""
    store.start()
    store.claim()
    assert store.release()
    assert store.meta("told") is None
    store.claim()
    store.redis.hdel(keys.meta("stream-1"), "told")
    store.append(1, FIRST, SECOND, epoch=2, tells=False)
    assert not store.release(epoch=2)


# -- the table
# -----------------------------------------------------------------------------------------------------------

MOVES = {
    "claim": lambda store: store.claim(),
    "cancel": lambda store: store.cancel(),
    "waited too long": lambda store: store.reap(max_wait_ms=-1),
    "complete": lambda store: store.append(1, FIRST, end="completed"),
    "cancelled by its worker": lambda store: store.append(1, FIRST, end="cancelled"),
    "fail": lambda store: store.append(1, FIRST, end="failed"),
    "lease expired, no output yet": lambda store: store.reap_twice(),
    "lease expired": lambda store: (store.append(1, FIRST, SECOND), store.reap_twice()),
    "requeued, no output yet": lambda store: store.release(),
}


@pytest.mark.parametrize(("before", "what", "after"), lifecycle.TRANSITIONS)
def test_every_row_of_the_lifecycle_table_happens(store: Store, before: str, what: str, after: str) -> None:
    store.start()
    if before == "running":
        store.claim()
    assert store.meta("state") == before
    MOVES[what](store)  # type: ignore[no-untyped-call]
    assert store.meta("state") == after


# -- asked again because a reply was lost on the way
# ------------------------------------------------------------------------------------------------------------


def test_a_start_that_is_repeated_changes_nothing_under_the_worker_that_has_it(store: Store) -> None:
    assert store.start(limits=Limits(100, 2, 2)).outcome == "started"
    store.claim()
    store.append(1, FIRST, SECOND)
    assert store.start(limits=Limits(100, 2, 2)).outcome == "started"
    assert (store.meta("state"), store.meta("epoch"), store.claim()) == ("running", "1", [])
    assert store.append(3, THIRD).outcome == "ok"
    # Nor does it count twice among what its key may.
    assert store.start("stream-2", limits=Limits(100, 2, 2)).outcome == "started"


def test_a_release_that_is_repeated_leaves_it_waiting_once(store: Store) -> None:
    store.start()
    store.claim()
    assert store.release()
    assert not store.release()
    assert store.append(1, FIRST).outcome == "fenced"
    assert len(store.claim()) == 1
