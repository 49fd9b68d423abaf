"""The appending side of a log, without Redis: what is sent, what is sent again, when it stops."""

from __future__ import annotations

import pytest

from tokenrelay.protocol.store import scripts
from tokenrelay.protocol.store.scripts import AppendReply, Argument, Claim
from tokenrelay.workers.append.log import Log, News


class Ears:
    """What a log tells its generation, in order."""

    def __init__(self) -> None:
        self.told: list[News] = []

    def __call__(self, news: News) -> None:
        self.told.append(news)


def log_of(ears: Ears | None = None, last_id: int = 0) -> Log:
    claim = Claim("stream-1", 1, last_id, 0, "m", "continue", b"")
    return Log(claim, 60_000, ears or Ears(), lambda _: None)


def batch(log: Log) -> tuple[int, list[Argument], str]:
    """First id, entries and end state of the next append."""
    arguments, count = log.next_batch()
    _, _, _, _, _, _, first, state, _, _, *entries = arguments
    assert count == len(entries)
    assert isinstance(first, int)
    return first, entries, str(state)


def ok(last_id: int, listeners: int = 1, *, cancel: bool = False) -> AppendReply:
    return AppendReply("ok", last_id, listeners, cancel)


def test_only_what_is_not_acknowledged_is_sent() -> None:
    log = log_of()
    log.append(b"a")
    log.append(b"b")
    assert batch(log) == (1, [b"a", b"b"], "")
    log.append(b"c")
    log.take_reply(ok(2))
    assert (log.unacked_bytes, batch(log)) == (1, (3, [b"c"], ""))
    log.take_reply(ok(3))
    assert not log.is_dirty


def test_without_an_answer_the_same_is_sent_again() -> None:
    log = log_of()
    log.append(b"a")
    assert batch(log) == batch(log) == (1, [b"a"], "")


def test_a_tail_that_redis_lost_is_sent_again() -> None:
    log = log_of()
    for entry in (b"a", b"b", b"c", b"d"):
        log.append(entry)
    log.take_reply(ok(4))
    log.append(b"e")
    log.take_reply(AppendReply("hole", 2, 0, False))
    assert batch(log) == (3, [b"c", b"d", b"e"], "")
    assert log.unacked_bytes == 3


def test_what_another_attempt_wrote_and_redis_lost_cannot_be_sent_again() -> None:
    ears = Ears()
    log = log_of(ears, last_id=1)
    log.append(b"b")
    log.take_reply(AppendReply("hole", 0, 0, False))
    assert (log.is_closed, ears.told) == (True, [News(is_lost=True)])


def test_the_end_goes_with_the_last_entry_only_and_closes_once_it_is_acknowledged() -> None:
    log = log_of()
    for number in range(scripts.MAX_BATCH_ENTRIES):
        log.append(b"%d" % number)
    log.end(b"end", "completed")
    first, entries, state = batch(log)
    assert (first, len(entries), state) == (1, scripts.MAX_BATCH_ENTRIES, "")
    log.take_reply(ok(scripts.MAX_BATCH_ENTRIES))
    assert (log.is_closed, log.is_dirty) == (False, True)
    assert batch(log) == (scripts.MAX_BATCH_ENTRIES + 1, [b"end"], "completed")
    log.take_reply(ok(scripts.MAX_BATCH_ENTRIES + 1))
    assert (log.is_closed, log.is_dirty) == (True, False)
    with pytest.raises(RuntimeError):
        log.append(b"late")


def test_a_batch_is_bounded_in_bytes_but_takes_at_least_one_entry() -> None:
    log = log_of()
    large = b"x" * (scripts.MAX_BATCH_BYTES - 10)
    log.append(large)
    log.append(large)
    assert batch(log)[1] == [large]


@pytest.mark.parametrize("outcome", ["fenced", "gone"])
def test_one_who_may_not_write_any_more_stops(outcome: str) -> None:
    ears = Ears()
    log = log_of(ears)
    log.append(b"a")
    log.take_reply(AppendReply(outcome, 9, 0, False))  # type: ignore[arg-type]
    assert (log.is_closed, log.is_dirty, ears.told) == (True, False, [News(is_lost=True)])


def test_a_stop_that_is_wanted_comes_with_any_append() -> None:
    ears = Ears()
    log = log_of(ears)
    log.append(b"a")
    log.take_reply(ok(1, 0, cancel=True))
    assert ears.told == [News(is_cancelled=True, is_heard=False)]


def test_a_repeated_append_says_nothing_of_listeners() -> None:
    ears = Ears()
    log = log_of(ears)
    log.append(b"a")
    log.take_reply(ok(1, -1))
    assert [news.is_heard for news in ears.told] == [None]
