"""The window of a stream: whatever comes in which order, it has every entry once, gapless, encoded once."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.cases import AT, COMPLETION, STARTED, STREAM, entry, pure, token
from tokenrelay.protocol import events
from tokenrelay.protocol.reading import feed
from tokenrelay.protocol.reading.feed import TRIM_BYTES, Feed, Format, Offer
from tokenrelay.protocol.store import entries
from tokenrelay.protocol.store.entries import Entry, pack_token, unpack_entry
from tokenrelay.protocol.wire import formats
from tokenrelay.protocol.wire.formats import SSE

LOG = [entry(STARTED), *(entry(token(f"w{number} ")) for number in range(8)), entry(COMPLETION)]
PLAIN = Format("plain", lambda _, entry_id, __: b"%d;" % entry_id)


def part(first: int, last: int) -> list[Entry]:
    """Entries `first` to `last` of the log."""
    return LOG[first - 1 : last]


def anchored(last_id: int = 0) -> Feed:
    made = Feed(STREAM)
    made.anchor(last_id)
    return made


def ids(made: Feed, cursor: int) -> list[int]:
    """What a reader at `cursor` takes, write after write."""
    got: list[int] = []
    while (chunk := made.after(got[-1] if got else cursor, PLAIN)) is not None:
        got += map(int, chunk.body.decode().strip(";").split(";"))
        assert chunk.cursor == got[-1]
    return got


# -- output ------------------------------------------------------------------------------------------------------------


def test_thinking_and_arguments_are_no_output_and_neither_is_an_end() -> None:
    thinks: list[events.Event] = [
        events.ThinkingStarted(AT, "m"),
        events.Thinking(AT, "m", "hm"),
        events.ToolInput(AT, "m", "c", "n", ""),
    ]
    log = [entry(event) for event in (STARTED, *thinks, token("a"), COMPLETION)]
    for step in (1, 2, 6):
        made = anchored()
        for first in range(0, len(log), step):
            made.offer(first + 1, log[first : first + step])
        assert [made.has_output(cursor) for cursor in range(7)] == [False] * 5 + [True] * 2
    ended = anchored()
    ended.offer(1, [entry(STARTED), entry(COMPLETION)])
    assert not ended.has_output(2)


@pytest.mark.parametrize("tag", [events.ToolCall(AT, "m", "c", "n", {}), events.Data(AT, "m", "n", 1)])
def test_tool_calls_and_data_are_output(tag: events.Event) -> None:
    made = anchored()
    made.offer(1, [entry(STARTED), entry(tag)])
    assert (made.has_output(1), made.has_output(2)) == (False, True)


def test_where_its_beginning_was_not_seen_all_after_started_counts() -> None:
    made = anchored(5)
    made.offer(6, part(6, 7))
    assert (made.has_output(1), made.has_output(2), made.has_output(7)) == (False, True, True)


# -- merging ----------------------------------------------------------------------------------------------------------

OFFERS: list[tuple[str, list[tuple[int, int]], list[Offer], int, bool]] = [
    # name, offered ids, what each turned out to be, last id, whether a gap is open
    ("one after another", [(1, 1), (2, 3), (4, 4)], [Offer.NEWS] * 3, 4, False),
    ("twice the same", [(1, 2), (1, 2)], [Offer.NEWS, Offer.KNOWN], 2, False),
    ("part of what is known", [(1, 4), (2, 3)], [Offer.NEWS, Offer.KNOWN], 4, False),
    ("an overlap brings the rest", [(1, 3), (2, 5)], [Offer.NEWS, Offer.NEWS], 5, False),
    ("a later one opens a gap", [(1, 2), (4, 5)], [Offer.NEWS, Offer.GAP], 2, True),
    ("an open gap keeps later ones out", [(1, 2), (4, 4), (5, 5)], [Offer.NEWS, Offer.GAP, Offer.GAP], 2, True),
    ("what was missing may come late", [(3, 4), (1, 2)], [Offer.GAP, Offer.NEWS], 2, True),
    ("a page of the log closes it", [(1, 2), (4, 5), (3, 5)], [Offer.NEWS, Offer.GAP, Offer.NEWS], 5, False),
    ("a page that is too short does not", [(1, 2), (5, 5), (3, 4)], [Offer.NEWS, Offer.GAP, Offer.NEWS], 4, True),
]


@pytest.mark.parametrize(
    ("offered", "outcomes", "last", "has_gap"), [row[1:] for row in OFFERS], ids=[row[0] for row in OFFERS]
)
def test_what_is_offered_is_merged(
    offered: list[tuple[int, int]], outcomes: list[Offer], last: int, has_gap: bool
) -> None:
    made = anchored()
    assert [made.offer(first, part(first, final)) for first, final in offered] == outcomes
    assert (made.last, made.has_gap) == (last, has_gap)
    assert ids(made, 0) == list(range(1, last + 1))


ANCHORS: list[tuple[str, list[tuple[int, int]], int, Offer, int, bool]] = [
    # name, held ids, the log's last id, what the anchor turned out to be, last id then, whether a gap is open
    ("nothing held", [], 5, Offer.KNOWN, 5, False),
    ("held and in the log", [(4, 4), (5, 5)], 5, Offer.KNOWN, 5, False),
    ("held and not in the log", [(6, 7)], 5, Offer.NEWS, 7, False),
    ("held, the first of them in the log", [(5, 5), (6, 6), (7, 8)], 5, Offer.NEWS, 8, False),
    ("held in one, partly in the log", [(4, 7)], 5, Offer.NEWS, 7, False),
    ("held behind a hole", [(7, 8)], 5, Offer.GAP, 5, True),
    ("held in the wrong order", [(7, 8), (6, 6)], 5, Offer.GAP, 6, True),
    ("a new stream", [(1, 2)], 0, Offer.NEWS, 2, False),
]


@pytest.mark.parametrize(
    ("held", "last_id", "outcome", "last", "has_gap"), [row[1:] for row in ANCHORS], ids=[row[0] for row in ANCHORS]
)
def test_what_came_before_the_anchor_is_held_and_then_merged(
    held: list[tuple[int, int]], last_id: int, outcome: Offer, last: int, has_gap: bool
) -> None:
    made = Feed(STREAM)
    for first, final in held:
        assert made.offer(first, part(first, final)) is Offer.KNOWN
    assert not made.has_gap
    assert made.anchor(last_id) is outcome
    assert (made.floor, made.last, made.has_gap) == (last_id, last, has_gap)
    assert ids(made, last_id) == list(range(last_id + 1, last + 1))


def test_a_second_anchor_changes_nothing() -> None:
    made = anchored(3)
    made.offer(4, part(4, 5))
    assert made.anchor(9) is Offer.KNOWN
    assert (made.floor, made.last) == (3, 5)


def test_what_cannot_be_held_is_read_from_the_log() -> None:
    made = Feed(STREAM)
    many = [LOG[1]] * feed.MAX_HELD_ENTRIES
    made.offer(1, many)
    made.offer(len(many) + 1, [LOG[2]])
    assert made.anchor(0) is Offer.GAP
    assert made.last == feed.MAX_HELD_ENTRIES


def test_a_last_id_that_was_heard_of_opens_a_gap_only_if_it_is_news() -> None:
    made = anchored(3)
    assert not made.heard_of(3)
    assert not made.heard_of(2)
    assert made.heard_of(5)
    made.offer(4, part(4, 5))
    assert not made.has_gap


def test_it_has_ended_when_its_newest_entry_is_the_end() -> None:
    made = anchored(8)
    seen = [made.has_ended]
    for number in (9, 10):
        made.offer(number, part(number, number))
        seen.append(made.has_ended)
    made.trim(10)
    assert [*seen, made.has_ended] == [False, False, True, True]


# -- any order of events ----------------------------------------------------------------------------------------------

spans = st.tuples(st.integers(1, len(LOG)), st.integers(1, 4)).map(lambda it: (it[0], min(it[0] + it[1] - 1, len(LOG))))


@given(st.lists(spans, max_size=12), st.integers(0, len(LOG)), st.integers(0, 12), st.lists(st.integers(1, 10)))
@pure
def test_whatever_is_lost_repeated_or_late_a_page_of_the_log_makes_it_whole(
    published: list[tuple[int, int]], anchor: int, anchored_at: int, trims: list[int]
) -> None:
    made = Feed(STREAM)
    cursor, got = anchor, list[int]()

    def read() -> None:
        nonlocal cursor
        got.extend(ids(made, cursor))
        cursor = got[-1] if got else cursor

    for number, (first, last) in enumerate(published):
        if number == anchored_at:
            made.anchor(anchor)
        made.offer(first, part(first, last))
        if made.is_anchored:
            read()
            if number in trims:
                made.trim(cursor)
    made.anchor(anchor)
    if made.heard_of(len(LOG)):
        made.offer(made.last + 1, part(made.last + 1, len(LOG)))
    read()
    assert got == list(range(anchor + 1, len(LOG) + 1))


# -- the bounds of the window -----------------------------------------------------------------------------------------


def tokens(count: int, size: int = 1) -> list[Entry]:
    return [["t", AT, "m", "x" * size] for _ in range(count)]


@given(st.integers(1, 60), st.integers(0, 80))
@pure
def test_trimming_loses_nothing_that_the_slowest_lacks(count: int, slowest: int) -> None:
    made = anchored(10)
    made.offer(11, tokens(count))
    made.trim(slowest)
    cursor = max(slowest, 10)
    assert ids(made, cursor) == list(range(cursor + 1, 11 + count))
    assert made.last == 10 + count


def test_trimming_lets_go_what_everybody_has_but_the_newest() -> None:
    made = anchored()
    made.offer(1, tokens(100))
    made.trim(70)
    assert (made.floor, made.last) == (70, 100)
    made.trim(10**9)
    assert (made.floor, made.last) == (99, 100)


def test_nobody_keeps_more_than_so_many_entries() -> None:
    made = anchored()
    made.offer(1, tokens(feed.MAX_WINDOW_ENTRIES + 10))
    made.trim(0)
    assert (made.floor, made.last) == (10, feed.MAX_WINDOW_ENTRIES + 10)


def test_nobody_keeps_more_than_so_many_bytes() -> None:
    made = anchored()
    size = feed.MAX_WINDOW_BYTES // 10
    made.offer(1, tokens(30, size))
    made.trim(0)
    assert 1 <= made.last - made.floor <= 10
    made.offer(31, tokens(1, 2 * feed.MAX_WINDOW_BYTES))
    made.trim(0)
    assert (made.floor, made.last) == (30, 31)


def test_the_bounds_hold_however_often_it_is_trimmed() -> None:
    made = anchored()
    for first in range(1, 3000, 40):
        made.offer(first, tokens(40, 200))
        made.trim(0)
        assert (made.last - made.floor) * 200 <= feed.MAX_WINDOW_BYTES
    assert ids(made, made.floor) == list(range(made.floor + 1, made.last + 1))


@pytest.mark.parametrize("text", ["w12 ", "x" * 4000, "\u0436" * 4000, "\U0001f600" * 4000])
def test_the_window_counts_the_bytes_that_it_takes(text: str) -> None:
    """Characters take one, two or four bytes, and an entry much more than its text."""
    raw = [pack_token(1_793_880_000_000 + number, "scripted?tokens=9", text) for number in range(200)]
    made = anchored()
    tracemalloc.start()
    made.offer(1, [unpack_entry(data) for data in raw])
    made.after(0, SSE)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.6 <= made._bytes / taken <= 1.4


def test_trimming_counts_down_to_what_is_left() -> None:
    made = anchored()
    made.offer(1, tokens(100, 50))
    made.after(0, SSE)
    made.trim(99)
    alone = anchored()
    alone.offer(1, tokens(1, 50))
    alone.after(0, SSE)
    assert made._bytes == pytest.approx(alone._bytes, abs=4)  # the id of the encoded one has two digits more


def test_an_empty_window_can_be_trimmed() -> None:
    made = anchored(5)
    made.trim(9)
    assert (made.floor, made.last) == (5, 5)


def test_it_wants_trimming_only_when_it_pays() -> None:
    made = anchored()
    made.offer(1, tokens(64))
    assert not made.needs_trim()
    made.offer(65, tokens(1))
    assert made.needs_trim()
    made.trim(64)
    made.offer(66, [["t", 0, "m", "x" * TRIM_BYTES]])
    assert made.needs_trim()  # few, and large
    made.trim(0)
    assert not made.needs_trim()  # somebody has it still: it is looked at again when as much has come again
    made.offer(67, [["t", 0, "m", "x" * TRIM_BYTES]])
    assert made.needs_trim()


# -- writes -----------------------------------------------------------------------------------------------------------


def counting(name: str = "counted") -> tuple[Format, list[int]]:
    calls: list[int] = []

    def encode(_: Entry, entry_id: int, stream_id: str) -> bytes:
        assert stream_id == STREAM
        calls.append(entry_id)
        return b"%d;" % entry_id

    return Format(name, encode), calls


def test_an_entry_is_encoded_once_a_format_for_any_number_of_readers() -> None:
    form, calls = counting()
    other, others = counting("other")
    made = anchored()
    made.offer(1, part(1, 4))
    for cursor in (0, 0, 1, 3, 2, 0):
        made.after(cursor, form)
    made.offer(5, part(5, 6))
    made.trim(3)
    for cursor in (3, 4, 3, 5):
        made.after(cursor, form)
    made.after(4, other)
    assert sorted(calls) == [1, 2, 3, 4, 5, 6]
    assert others == [5, 6]


def test_readers_that_stand_together_share_one_write() -> None:
    made = anchored()
    made.offer(1, part(1, 4))
    assert made.after(1, PLAIN) is made.after(1, PLAIN)


def test_a_write_that_was_shared_is_made_anew_when_there_is_more() -> None:
    made = anchored()
    made.offer(1, part(1, 2))
    first = made.after(0, PLAIN)
    made.offer(3, part(3, 3))
    second = made.after(0, PLAIN)
    assert (first and first.body, second and second.body) == (b"1;2;", b"1;2;3;")


@pytest.mark.parametrize("cursor", [4, 9, 10, 99])
def test_there_is_no_write_for_one_before_the_window_or_at_its_end(cursor: int) -> None:
    made = anchored(5)
    made.offer(6, part(6, 9))
    assert made.after(cursor, PLAIN) is None


def test_a_write_says_where_its_reader_stands_then() -> None:
    made = anchored(7)
    made.offer(8, part(8, 9))
    chunk = made.after(7, PLAIN)
    assert chunk is not None
    assert (chunk.count, chunk.cursor, chunk.is_last) == (2, 9, False)
    made.offer(10, part(10, 10))
    chunk = made.after(8, PLAIN)
    assert chunk is not None
    assert (chunk.body, chunk.count, chunk.cursor, chunk.is_last) == (b"9;10;", 2, 10, True)


def sized(size: int) -> Callable[[Entry, int, str], bytes]:
    return lambda _, entry_id, __: b"%d;" % entry_id + b" " * size


def test_a_write_has_at_most_so_many_bytes() -> None:
    form = Format("large", sized(feed.MAX_CHUNK_BYTES // 4))
    made = anchored()
    made.offer(1, tokens(10))
    chunk = made.after(0, form)
    assert chunk is not None
    assert (chunk.count, chunk.cursor) == (3, 3)
    assert len(chunk.body) <= feed.MAX_CHUNK_BYTES


def test_one_event_larger_than_a_write_is_a_write() -> None:
    form = Format("huge", sized(2 * feed.MAX_CHUNK_BYTES))
    made = anchored()
    made.offer(1, tokens(3))
    chunk = made.after(1, form)
    assert chunk is not None
    assert (chunk.count, chunk.cursor) == (1, 2)


def test_messages_are_joined_by_their_formats_separator() -> None:
    made = anchored()
    made.offer(1, part(1, 3))
    chunk = made.after(1, formats.WS_JSON)
    assert chunk is not None
    one, two = (formats.WS_JSON.encode(LOG[number - 1], number, STREAM) for number in (2, 3))
    assert chunk.body == one + b"," + two


def test_its_repr_says_where_it_stands() -> None:
    made = anchored(5)
    assert repr(made) == f"<Feed {STREAM} 5…5 live>"
    made.heard_of(7)
    assert repr(made).endswith("gap>")
    made.offer(6, part(6, 10))
    assert repr(made).endswith("5…10 ended>")
    assert entries.is_terminal(LOG[9])
