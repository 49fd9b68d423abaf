"""Entries to bytes, bytes to entries, entries to what clients get: one table, every direction."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.protocol.cases import AT, CALL, COMPLETION, STARTED, STREAM, THINKS, entry, pure, raw, token, vectors
from tokenrelay.protocol.events import (
    Completion,
    Data,
    Event,
    Failure,
    Started,
    Thinking,
    ThinkingStarted,
    Token,
    ToolCall,
    ToolInput,
    ToolResult,
    Unknown,
    usage,
)
from tokenrelay.protocol.store.entries import (
    MAX_ENTRY_BYTES,
    MAX_TOKEN_CHARACTERS,
    TOKEN,
    CorruptEntry,
    Entry,
    event_of,
    is_terminal,
    join_pieces,
    pack,
    pack_token,
    unpack,
    unpack_entry,
    unpack_publication,
)
from tokenrelay.protocol.wire import event_json, formats, sse

CASES = vectors("events")["cases"]
NAMES = [case["name"] for case in CASES]

# What UTF-8 can carry: no halves of surrogate pairs.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
times = st.integers(0, 4_102_444_800_000)
counts = st.integers(0, 2**40)
seconds = st.floats(0, 1e6)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
objects = st.dictionaries(texts, values, max_size=3)
tokens = st.builds(Token, times, texts, words)
used = st.none() | st.builds(usage, counts, counts, reasoning_tokens=st.none() | counts)
any_event: st.SearchStrategy[Event] = st.one_of(
    tokens,
    st.builds(Started, times, texts, st.none() | objects),
    st.builds(ThinkingStarted, times, texts),
    st.builds(Thinking, times, texts, words),
    st.builds(ToolInput, times, texts, words, words, texts),
    st.builds(ToolInput, times, texts, words, st.just(""), words),
    st.builds(ToolCall, times, texts, words, words, objects, st.none() | st.integers(1, 128)),
    st.builds(Data, times, texts, words, values),
    st.builds(ToolResult, times, texts, words, words, objects, texts, st.booleans()),
    st.builds(
        Completion,
        times,
        texts,
        texts,
        texts,
        st.sampled_from(["stop", "length"]),
        counts,
        counts,
        seconds,
        usage=used,
        cost_usd=st.none() | seconds,
    ),
    st.builds(
        Failure, times, words, words, st.booleans(), st.none() | seconds, usage=used, cost_usd=st.none() | seconds
    ),
)


# -- the vectors, in each direction -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_an_entry_is_told_character_by_character_as_the_vector_says(case: dict[str, Any]) -> None:
    unpacked = unpack_entry(raw(case["entry"]))
    assert event_json.data_of(unpacked, case["stream_id"]) == case["data"]
    assert formats.SSE.encode(unpacked, case["id"], case["stream_id"]).decode() == case["sse"]
    assert formats.WS_JSON.encode(unpacked, case["id"], case["stream_id"]).decode() == case["ws_json"]


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_a_binary_message_holds_the_same_object(case: dict[str, Any]) -> None:
    message = formats.WS_MSGPACK.encode(unpack_entry(raw(case["entry"])), case["id"], case["stream_id"])
    expected = {"type": "event", "stream_id": case["stream_id"], "id": case["id"], "data": case["data"]}
    assert msgpack.unpackb(message) == expected


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_an_event_is_packed_as_the_vector_says(case: dict[str, Any]) -> None:
    event = unpack(raw(case["entry"]))
    if "later version" in case["name"]:
        return  # it is read, not written
    if "leaves out" not in case["name"]:
        assert pack(event) == raw(case["entry"])
    assert unpack(pack(event)) == event


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_an_entry_cut_short_or_followed_by_rubbish_is_none(case: dict[str, Any]) -> None:
    packed = raw(case["entry"])
    for wrong in (*(packed[:size] for size in range(len(packed))), packed + b"\x00", packed + packed, packed + b"\xc1"):
        with pytest.raises(CorruptEntry):
            unpack_entry(wrong)


def test_accepted_is_told_as_the_vector_says() -> None:
    case = vectors("events")["accepted"]
    data = event_json.accepted_data(case["stream_id"], case["model"], case["at_ms"])
    assert sse.encode_frame(event_json.to_json(data)).decode() == case["sse"]


def test_a_publication_is_read_as_the_vector_says() -> None:
    case = vectors("events")["publication"]
    by_name = {row["name"]: unpack_entry(raw(row["entry"])) for row in CASES}
    expected = (case["first"], [by_name[name] for name in case["cases"]])
    assert unpack_publication(raw(case["bytes"])) == expected


def test_a_publication_cut_anywhere_but_between_entries_is_none() -> None:
    packed = [pack(STARTED), pack(token("a")), pack(CALL)]
    whole = b"7\n" + b"".join(packed)
    borders = {2 + sum(map(len, packed[:count])): count for count in range(4)}
    for size in range(len(whole) + 1):
        if size in borders:
            assert len(unpack_publication(whole[:size])[1]) == borders[size]
        else:
            with pytest.raises(CorruptEntry):
                unpack_publication(whole[:size])


# -- what is no entry -------------------------------------------------------------------------------------------------

CORRUPT: list[tuple[str, Any]] = [
    ("no array", {"t": 1}), ("a number", 1), ("nothing", None), ("an empty array", []), ("a tag alone", ["t"]),
    ("a tag of two letters", ["tt", AT]),
    ("an unknown tag without a time", ["x", "m"]), ("a tag that cannot be looked up", [[], AT]),
    ("a tag of bytes", [b"t", AT]),
    ("a token without text", ["t", AT, "m", ""]), ("too few fields", ["t", AT]),
    ("thinking without text", ["h", AT, "m", ""]), ("arguments of no call", ["i", AT, "m", "", "n", "a"]),
    ("arguments that say nothing", ["i", AT, "m", "c", "", ""]),
    ("a call counted from 0", ["c", AT, "m", "c", "n", {}, 0]),
    ("data without a name", ["d", AT, "m", "", 1]), ("data that is bytes", ["d", AT, "m", "n", b"1"]),
    ("a result that is no text", ["r", AT, "m", "c", "n", {}, 5]),
    ("counts that are text", ["e", AT, "m", "u", "p", "stop", "1", "2", 0.5]),
    ("a reason that is a list", ["e", AT, "m", "u", "p", [], 1, 2, 0.5]),
    ("a time that is no number", ["e", AT, "m", "u", "p", "stop", 1, 2, float("nan")]),
]  # fmt: skip


@pytest.mark.parametrize("value", [row[1] for row in CORRUPT], ids=[row[0] for row in CORRUPT])
def test_it_is_no_event(value: Any) -> None:
    with pytest.raises(CorruptEntry):
        unpack(msgpack.packb(value))


@given(st.binary(max_size=60))
@example(b"\x92\x90\x01")
@example(b"\xd4\xff\x00")
@pure
def test_any_bytes_are_an_event_or_corrupt(data: bytes) -> None:
    try:
        unpack(data)
    except CorruptEntry:
        pass
    else:
        assert data  # hypothesis found an event


LATER: list[tuple[list[Any], Event]] = [
    (["x", AT], Unknown(AT)),
    (["x", AT, "m", {"a": 1}], Unknown(AT)),
    (["t", AT, "m", "a", {"a": 1}], token("a")),
    (["s", AT, "m", None, 1, 2], STARTED),
    (["k", AT, "m", 1], THINKS),
]


@pytest.mark.parametrize(("value", "event"), LATER, ids=[str(row[0]) for row in LATER])
def test_what_a_later_version_adds_is_passed_over(value: list[Any], event: Event) -> None:
    assert unpack(msgpack.packb(value)) == event
    read = unpack_entry(msgpack.packb(value))
    assert json.loads(event_json.json_of(read, STREAM)) == event_json.data_of(read, STREAM)
    assert not is_terminal(read)
    assert join_pieces([(1, read)])[0][0] == 1


NO_PUBLICATION = [b"", b"1", b"\n", b"x\n", b"-1\n", b" 1\n", b"1\n\x01", b"1\n\xc1", b"1\n\x91\xa1t"]


@pytest.mark.parametrize("message", NO_PUBLICATION)
def test_what_begins_with_no_id_or_holds_no_entries_is_no_publication(message: bytes) -> None:
    with pytest.raises(CorruptEntry):
        unpack_publication(message)


@given(st.binary(max_size=60), st.sampled_from([b"", b"1\n", b"99999999999999999999\n", b"9" * 5000 + b"\n"]))
@pure
def test_any_bytes_are_a_publication_or_corrupt(data: bytes, head: bytes) -> None:
    try:
        unpack_publication(head + data)
    except CorruptEntry:
        return


# -- properties -------------------------------------------------------------------------------------------------------


@given(any_event)
@pure
def test_what_is_packed_is_what_is_unpacked(event: Event) -> None:
    assert unpack(pack(event)) == event


@given(any_event)
@pure
def test_json_is_one_line_of_ascii_that_gives_the_object_back(event: Event) -> None:
    text = event_json.json_of(entry(event), STREAM)
    assert text.isascii()
    assert text.isprintable()
    assert json.loads(text) == event_json.data_of(entry(event), STREAM)


@given(tokens)
@example(Token(0, "", '\x00\x7f\u2028\U0010ffff"\\/'))
@pure
def test_the_short_cuts_of_text_equal_the_long_way(event: Token) -> None:
    assert pack_token(event.at_ms, event.model, event.text) == pack(event)
    thought = entry(Thinking(event.at_ms, event.model, event.text))
    assert event_json.json_of(thought, STREAM) == event_json.to_json(event_json.data_of(thought, STREAM))
    assert event_json.json_of(entry(event), STREAM) == event_json.to_json(event_json.data_of(entry(event), STREAM))


@given(any_event)
@pure
def test_every_event_has_a_string_token_and_says_whether_it_is_the_end(event: Event) -> None:
    data = event_json.data_of(entry(event), STREAM)
    assert type(data["token"]) is str
    assert data["done"] is is_terminal(entry(event)) is isinstance(event, (Completion, Failure))
    assert bool(data["token"]) == isinstance(event, Token)


def test_total_tokens_are_input_and_output() -> None:
    assert event_json.data_of(entry(COMPLETION), STREAM)["total_tokens"] == 7


@pytest.mark.parametrize(
    ("at_ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (999, "1970-01-01T00:00:00.999Z"),
        (1000, "1970-01-01T00:00:01.000Z"),
        (951_782_400_005, "2000-02-29T00:00:00.005Z"),
        (1_705_314_600_123, "2024-01-15T10:30:00.123Z"),
    ],
)
def test_a_timestamp_is_utc_with_milliseconds(at_ms: int, text: str) -> None:
    assert event_json.timestamp(at_ms) == text


# -- compact replay ---------------------------------------------------------------------------------------------------


def numbered(*events: Event) -> list[tuple[int, Entry]]:
    return [(number, entry(event)) for number, event in enumerate(events, 1)]


def told(joined: list[tuple[int, Entry]]) -> list[tuple[int, str]]:
    return [(number, item[3] if item[0] == TOKEN else item[0]) for number, item in joined]


def thought(text: str, model: str = "m") -> Thinking:
    return Thinking(AT, model, text)


def piece(text: str, name: str = "", call_id: str = "c") -> ToolInput:
    return ToolInput(AT, "m", call_id, name, text)


JOINED: list[tuple[str, list[tuple[int, Entry]], list[tuple[int, str]]]] = [
    ("nothing", [], []),
    ("one token", numbered(token("a")), [(1, "a")]),
    ("tokens become one, with the last id", numbered(token("a"), token("b"), token("c")), [(3, "abc")]),
    ("what is between stays between", numbered(STARTED, token("a"), token("b"), CALL, token("c"), COMPLETION),
     [(1, "s"), (3, "ab"), (4, "c"), (5, "c"), (6, "e")]),
    ("another model begins another", numbered(token("a"), token("b", "n"), token("c", "n")), [(1, "a"), (3, "bc")]),
    ("a joined one ends where it would be too large", numbered(*map(token, ("aa", "bb", "c", "ddd"))),
     [(2, "aabb"), (4, "cddd")]),
    ("one that is too large by itself stays whole", numbered(token("a"), token("bbbbbb"), token("c")),
     [(1, "a"), (2, "bbbbbb"), (3, "c")]),
]  # fmt: skip


@pytest.mark.parametrize(("entries", "expected"), [row[1:] for row in JOINED], ids=[row[0] for row in JOINED])
def test_tokens_that_follow_one_another_are_joined(
    entries: list[tuple[int, Entry]], expected: list[tuple[int, str]]
) -> None:
    assert told(join_pieces(entries, max_characters=4)) == expected


PIECES: list[tuple[str, list[Event], list[tuple[int, Event]]]] = [
    ("thinking becomes one", [THINKS, thought("a"), thought("b")], [(1, THINKS), (3, thought("ab"))]),
    ("thinking and text stay apart", [thought("a"), token("b"), thought("c")],
     [(1, thought("a")), (2, token("b")), (3, thought("c"))]),
    ("thinking of two models", [thought("a"), thought("b", "n")], [(1, thought("a")), (2, thought("b", "n"))]),
    ("a run of thinking begins anew", [thought("a"), THINKS, thought("b")],
     [(1, thought("a")), (2, THINKS), (3, thought("b"))]),
    ("thinking is bounded", [thought("aaa"), thought("bb")], [(1, thought("aaa")), (2, thought("bb"))]),
    ("arguments keep the name of their first piece", [piece("", "n"), piece("{"), piece("}")], [(3, piece("{}", "n"))]),
    ("the rest of a call's arguments", [piece("{"), piece("}")], [(2, piece("{}"))]),
    ("arguments of two calls", [piece("{", "n"), piece("}"), piece("[", "n", "d"), piece("]", call_id="d")],
     [(2, piece("{}", "n")), (4, piece("[]", "n", "d"))]),
    ("two calls written at once", [piece("a"), piece("b", call_id="d"), piece("c")],
     [(1, piece("a")), (2, piece("b", call_id="d")), (3, piece("c"))]),
    ("one call begun twice", [piece("{", "n"), piece("[", "n")], [(1, piece("{", "n")), (2, piece("[", "n"))]),
    ("arguments are bounded", [piece("aaa", "n"), piece("bb")], [(1, piece("aaa", "n")), (2, piece("bb"))]),
]  # fmt: skip


@pytest.mark.parametrize(("events", "expected"), [row[1:] for row in PIECES], ids=[row[0] for row in PIECES])
def test_thinking_and_arguments_are_joined_as_tokens_are(
    events: list[Event], expected: list[tuple[int, Event]]
) -> None:
    joined = join_pieces(numbered(*events), max_characters=4)
    assert [(number, event_of(item)) for number, item in joined] == expected


def test_a_joined_token_has_the_time_of_its_last() -> None:
    [(_, joined)] = join_pieces([(1, ["t", 10, "m", "a"]), (2, ["t", 20, "m", "b"])])
    assert event_json.data_of(joined, STREAM)["timestamp"] == event_json.timestamp(20)


@given(st.lists(st.sampled_from([token("a"), token("bc"), token("d", "n"), CALL]), max_size=20), st.integers(1, 6))
@pure
def test_joining_changes_no_text_and_only_leaves_ids_out(events: list[Event], most: int) -> None:
    entries = numbered(*events)
    joined = join_pieces(entries, max_characters=most)
    ids = [number for number, _ in joined]
    assert "".join(event_json.data_of(item, STREAM)["token"] for _, item in joined) == "".join(
        event.text for event in events if isinstance(event, Token)
    )
    assert ids == sorted(set(ids))
    assert ids[-1:] == [number for number, _ in entries][-1:]


def test_bounds_fit_one_another() -> None:
    widest = token("\U0001f600" * MAX_TOKEN_CHARACTERS)
    assert len(pack(widest)) <= MAX_ENTRY_BYTES
    assert len(event_json.json_of(entry(widest), STREAM)) <= sse.MAX_EVENT_BYTES
