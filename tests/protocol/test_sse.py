"""Server-Sent Events: the decoder over any chunking, the encoder, and clients that only split lines."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.cases import STREAM, entry, pure, vectors
from tests.protocol.test_entries import any_event
from tokenrelay.protocol.events import Event, Token
from tokenrelay.protocol.wire import event_json, formats, sse
from tokenrelay.protocol.wire.sse import Decoder, Frame, FrameTooLarge

CASES = vectors("sse_decode")["cases"]


def decode(chunks: Iterable[bytes]) -> dict[str, Any]:
    """What a decoder makes of them, as the vectors write it."""
    decoder = Decoder()
    frames = [frame for chunk in chunks for frame in decoder.feed(chunk)]
    return {
        "frames": [{"data": frame.data, "event": frame.event, "id": frame.event_id} for frame in frames],
        "retry": decoder.retry_ms,
        "last_event_id": decoder.last_event_id,
    }


def every_byte(text: bytes) -> list[bytes]:
    return [text[index : index + 1] for index in range(len(text))]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_bytes_are_decoded_as_the_vector_says(case: dict[str, Any]) -> None:
    expected = {name: case[name] for name in ("frames", "retry", "last_event_id")}
    chunks = [chunk.encode("latin-1") for chunk in case["chunks"]]
    whole = b"".join(chunks)
    assert decode(chunks) == expected
    assert decode([whole]) == expected
    if case["each_byte"]:
        assert decode(every_byte(whole)) == expected
    for cut in range(len(whole)):
        assert decode([whole[:cut], whole[cut:]]) == expected


SYNTAX = [b"data", b"id", b"event", b"retry", b":", b" ", b"\n", b"\n", b"\r", b"\r\n"]
pieces = st.sampled_from([*SYNTAX, b"\xef\xbb\xbf", b"\xf0\x9f\x98\x80", b"\0", b"\xff", b"7", b"a"])


@given(st.lists(pieces, max_size=30), st.data())
@pure
def test_no_chunking_changes_what_is_decoded(parts: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    chunks = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert decode(chunks) == decode([whole]) == decode(every_byte(whole))


@given(st.lists(any_event, min_size=1, max_size=4), st.integers(1, 40))
@pure
def test_what_is_encoded_is_decoded_in_pieces_of_any_size(events: list[Event], size: int) -> None:
    entries = [(number, entry(event)) for number, event in enumerate(events, 1)]
    wire = sse.encode_retry(1500) + sse.HEARTBEAT.join(formats.SSE.encode(item, n, STREAM) for n, item in entries)
    decoded = decode(wire[start : start + size] for start in range(0, len(wire), size))
    assert [(frame["id"], json.loads(frame["data"])) for frame in decoded["frames"]] == [
        (str(number), event_json.data_of(item, STREAM)) for number, item in entries
    ]
    assert decoded["retry"] == 1500


@given(st.lists(any_event, min_size=1, max_size=4))
@pure
def test_a_client_that_splits_lines_and_appends_token_has_exactly_the_text(events: list[Event]) -> None:
    """As many clients are written: each network read on its own, split at line ends, `data: ` parsed, `token` added."""
    answer = ""
    for number, event in enumerate(events, 1):
        frame = formats.SSE.encode(entry(event), number, STREAM)
        assert frame.isascii()
        parsed = [json.loads(line[6:]) for line in frame.decode("ascii").split("\n") if line.startswith("data: ")]
        assert len(parsed) == 1
        assert isinstance(parsed[0]["token"], str)
        answer += parsed[0]["token"]
    assert answer == "".join(event.text for event in events if isinstance(event, Token))


@given(st.text('ab:"\\ {}é', max_size=20), st.none() | st.integers(1, 2**53 - 1))
@pure
def test_one_frame_gives_back_its_data_and_id(data: str, event_id: int | None) -> None:
    [frame] = Decoder().feed(sse.encode_frame(data, event_id))
    assert frame == Frame(data, "message", "" if event_id is None else str(event_id))


def test_both_ways_to_make_a_frame_make_the_same() -> None:
    case = vectors("events")["cases"][3]
    text = event_json.to_json(case["data"])
    assert sse.encode_frame(text, case["id"]).decode() == case["sse"]


@pytest.mark.parametrize("data", ["a\nb", "a\rb", "\n", "a\r\n"])
def test_data_with_a_line_end_is_refused(data: str) -> None:
    with pytest.raises(ValueError, match="one line"):
        sse.encode_frame(data)


def test_heartbeat_and_retry_are_no_events() -> None:
    decoder = Decoder()
    assert decoder.feed(sse.HEARTBEAT + sse.encode_retry(700) + sse.HEARTBEAT) == []
    assert decoder.retry_ms == 700


MIDDLES = [(b"", False), (b"da", True), (b"data: a\n", True), (b"data: a\n\n", False), (b": h", True)]


@pytest.mark.parametrize(("fed", "is_mid_event"), MIDDLES)
def test_the_decoder_says_whether_it_is_in_the_middle(fed: bytes, is_mid_event: bool) -> None:
    decoder = Decoder()
    decoder.feed(fed)
    assert decoder.is_mid_event is is_mid_event


LARGE = [[b"data: " + b"x" * 100 + b"\n"], [b"x" * 60, b"x" * 60], [b"data: xxxxxxx\n"] * 20]


@pytest.mark.parametrize("chunks", LARGE, ids=["a line", "a line without end", "many lines"])
def test_an_event_beyond_the_bound_is_refused(chunks: list[bytes]) -> None:
    decoder = Decoder(max_event_bytes=100)
    with pytest.raises(FrameTooLarge):
        [decoder.feed(chunk) for chunk in chunks]


def test_events_within_the_bound_may_be_any_number() -> None:
    decoder = Decoder(max_event_bytes=100)
    assert sum(len(decoder.feed(b"data: " + b"x" * 80 + b"\n\n")) for _ in range(50)) == 50
