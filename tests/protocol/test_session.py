"""One reader: whatever comes in whatever order, it has every entry once and in order, exact and compact alike."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.cases import AT, CALL, COMPLETION, STREAM, entry, log_of, pure, token, vectors
from tokenrelay.protocol.reading import session
from tokenrelay.protocol.reading.feed import MAX_CHUNK_BYTES, Chunk, Feed, Format, Offer
from tokenrelay.protocol.reading.session import PAGE_ENTRIES, Session, Step
from tokenrelay.protocol.store.entries import Entry
from tokenrelay.protocol.wire import event_json, formats
from tokenrelay.protocol.wire.sse import Decoder

CASES = vectors("session")["cases"]


class Reader:
    """A transport without a connection: does what its session says to the end; keeps what it was given."""

    def __init__(self, log: list[Entry], after: int, *, is_compact: bool, feed: Feed | None) -> None:
        self.session = Session(STREAM, after, is_compact=is_compact, now=0)
        self.feed = feed
        self.log = log
        self.decoder = Decoder()
        self.got: list[tuple[int, dict[str, Any]]] = []

    @property
    def ids(self) -> list[int]:
        return [event_id for event_id, _ in self.got]

    @property
    def text(self) -> str:
        return "".join(data["token"] for _, data in self.got)

    def read(self, logged: int, page: int = PAGE_ENTRIES) -> Step:
        """Take all there is; gives the step at which it stands then."""
        while True:
            step = self.session.next_step(self.feed)
            if step is Step.TAKE and self.feed is not None:
                chunk = self.feed.after(self.session.cursor, formats.SSE)
                assert chunk is not None
                self._take(chunk)
            elif step is Step.READ_LOG:
                first = self.session.cursor + 1
                entries = self.log[first - 1 : min(logged, first - 1 + page)]
                for chunk in self.session.chunks(first, entries, formats.SSE):
                    self._take(chunk)
            else:
                return step

    def _take(self, chunk: Chunk) -> None:
        frames = self.decoder.feed(chunk.body)
        assert len(frames) == chunk.count
        self.got += [(int(frame.event_id), json.loads(frame.data)) for frame in frames]
        self.session.took(chunk)
        assert self.session.cursor == self.got[-1][0]


# -- the vectors ------------------------------------------------------------------------------------------------------


def play(case: dict[str, Any], *, is_compact: bool) -> Reader:
    log, logged = log_of(case["log"]), 0
    feed = Feed(STREAM) if case["has_feed"] else None
    reader = Reader(log, case["after"], is_compact=is_compact, feed=feed)
    for step in case["steps"]:
        outcome: Any = None
        match step:
            case {"logged": int(count)}:
                logged = count
            case {"read": True}:
                reader.read(logged)
            case {"anchor": int(last)} if feed:
                outcome = feed.anchor(last).name.lower()
            case {"publication": [first, last]} if feed:
                outcome = feed.offer(first, log[first - 1 : last]).name.lower()
            case {"asked": int(last)} if feed:
                outcome = "gap" if feed.heard_of(last) else "whole"
            case {"trim": int(slowest)} if feed:
                feed.trim(slowest)
            case {"refill": True} if feed:
                while feed.has_gap:
                    assert feed.offer(feed.last + 1, log[feed.last : logged]) is Offer.NEWS
            case _:
                raise AssertionError(f"no step is called {step}")
        assert outcome == step.get("is"), step
    return reader


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
@pytest.mark.parametrize("replay", ["exact", "compact"])
def test_a_reader_gets_what_the_vector_says(case: dict[str, Any], replay: str) -> None:
    reader = play(case, is_compact=replay == "compact")
    assert reader.ids == case[replay]
    assert reader.text == case["text"]
    assert reader.session.has_ended is case["closed"]


# -- any interleaving -------------------------------------------------------------------------------------------------

logs = st.lists(st.sampled_from(["a", "b", "*call", "*result"]), min_size=1, max_size=14)


@given(logs, st.data(), st.booleans())
@pure
def test_any_interleaving_ends_with_every_entry_once_in_order(
    items: list[str], data: st.DataObject, is_compact: bool
) -> None:
    """Publications come late, twice, in any order or not at all; the window is trimmed; the log is read in pages."""
    items = ["*started", *items, "*end"]
    log = log_of(items)
    size = len(log)
    number = st.integers(0, size)
    after = data.draw(st.integers(0, size - 1), label="after")
    logged = max(after, data.draw(number, label="logged when it came"))
    feed = Feed(STREAM)
    reader = Reader(log, after, is_compact=is_compact, feed=feed)
    steps = data.draw(st.lists(st.tuples(st.sampled_from("ppprlat"), number, st.integers(1, 5)), max_size=15))
    for kind, first, count in [*steps, ("a", 0, 0)]:
        match kind:
            case "l":
                logged = min(size, logged + count)
            case "a":
                feed.anchor(logged)
            case "p" if first:
                feed.offer(first, log[first - 1 : min(first - 1 + count, max(logged, 1))])
            case "r" if feed.is_anchored:
                reader.read(logged, page=count)
            case "t":
                feed.trim(first)
    while feed.heard_of(size):
        feed.offer(feed.last + 1, log[feed.last : feed.last + 3])
    assert reader.read(size) is Step.CLOSE

    expected = [(event_id, event_json.data_of(item, STREAM)) for event_id, item in enumerate(log[after:], after + 1)]
    assert reader.text == "".join(event["token"] for _, event in expected)
    if not is_compact:
        assert reader.got == expected
    assert reader.ids == sorted(set(reader.ids))
    assert reader.ids[-1] == size
    untouched = [(event_id, event) for event_id, event in expected if not event["token"]]
    assert [(event_id, event) for event_id, event in reader.got if not event["token"]] == untouched


@given(logs, st.data())
@pure
def test_a_reader_may_drop_anywhere_and_change_between_exact_and_compact(items: list[str], data: st.DataObject) -> None:
    log = log_of(["*started", *items, "*end"])
    got: list[tuple[int, dict[str, Any]]] = []
    while not got or not got[-1][1]["done"]:
        after = got[-1][0] if got else 0
        reader = Reader(log, after, is_compact=data.draw(st.booleans()), feed=None)
        reader.read(len(log))
        got += reader.got[: data.draw(st.integers(1, 4))]
    assert "".join(event["token"] for _, event in got) == "".join(item for item in items if len(item) == 1)
    assert [event_id for event_id, _ in got] == sorted({event_id for event_id, _ in got})


# -- steps ------------------------------------------------------------------------------------------------------------


def feed_of(floor: int, last: int) -> Feed:
    made = Feed(STREAM)
    made.anchor(floor)
    made.offer(floor + 1, [entry(token("a"))] * (last - floor))
    return made


STEPS: list[tuple[str, int, Feed | None, Step]] = [
    ("no feed: all is in the log", 0, None, Step.READ_LOG),
    ("before the window", 3, feed_of(5, 9), Step.READ_LOG),
    ("at the window's floor", 5, feed_of(5, 9), Step.TAKE),
    ("inside it", 8, feed_of(5, 9), Step.TAKE),
    ("at its end", 9, feed_of(5, 9), Step.WAIT),
    ("ahead of it", 12, feed_of(5, 9), Step.WAIT),
    ("nothing written yet", 0, feed_of(0, 0), Step.WAIT),
]


@pytest.mark.parametrize(("cursor", "feed", "step"), [row[1:] for row in STEPS], ids=[row[0] for row in STEPS])
def test_a_session_knows_its_next_step(cursor: int, feed: Feed | None, step: Step) -> None:
    made = Session(STREAM, cursor, is_compact=True, now=0)
    assert made.next_step(feed) is step
    if feed is not None:
        assert made.is_behind(feed) is (step is Step.READ_LOG)


def test_after_the_end_there_is_only_closing() -> None:
    made = Session(STREAM, 0, is_compact=True, now=0)
    made.took(Chunk(b"", 1, 4, is_last=True))
    assert made.next_step(None) is Step.CLOSE
    assert made.next_step(feed_of(0, 9)) is Step.CLOSE
    assert repr(made) == f"<Session {STREAM} at 4 ended>"


# -- pages of the log -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 3, 5, 9])
def test_a_page_that_does_not_follow_the_cursor_is_refused(first: int) -> None:
    made = Session(STREAM, 3, is_compact=True, now=0)
    with pytest.raises(LookupError, match=f"expected entry 4, the log begins at {first}"):
        made.chunks(first, [entry(CALL)], formats.SSE)


def test_no_page_at_all_is_refused() -> None:
    with pytest.raises(LookupError):
        Session(STREAM, 0, is_compact=True, now=0).chunks(1, [], formats.SSE)


def test_a_page_is_written_in_pieces_of_bounded_size() -> None:
    part = MAX_CHUNK_BYTES // 3
    form = Format("large", lambda _, entry_id, __: b"%d;" % entry_id + b" " * part, b",")
    made = Session(STREAM, 0, is_compact=False, now=0)
    page: list[Entry] = [["t", AT, "m", "a"]] * 9 + [entry(COMPLETION)]
    chunks = made.chunks(1, page, form)
    assert sum(chunk.count for chunk in chunks) == 10
    assert all(len(chunk.body) <= MAX_CHUNK_BYTES + 2 * part for chunk in chunks)
    assert len(chunks) > 2
    assert [chunk.is_last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert [chunk.body.count(b",") + 1 for chunk in chunks] == [chunk.count for chunk in chunks]
    assert chunks[-1].cursor == 10


# -- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrote_at", "sending_since", "now", "is_due"),
    [(0, None, 14.9, False), (0, None, 15.0, True), (10, None, 20.0, False), (0, 1.0, 99.0, False)],
)
def test_a_heartbeat_is_due_after_silence_unless_a_write_is_under_way(
    wrote_at: float, sending_since: float | None, now: float, is_due: bool
) -> None:
    made = Session(STREAM, 0, is_compact=True, now=wrote_at)
    made.sending_since = sending_since
    assert made.heartbeat_due(now) is is_due
    assert session.HEARTBEAT_S == 15


@pytest.mark.parametrize(("since", "now", "is_stalled"), [(None, 99, False), (5, 34.9, False), (5, 35, True)])
def test_a_reader_is_stalled_when_one_write_takes_too_long(since: float | None, now: float, is_stalled: bool) -> None:
    made = Session(STREAM, 0, is_compact=True, now=0)
    made.sending_since = since
    assert made.is_stalled(now, 30) is is_stalled
