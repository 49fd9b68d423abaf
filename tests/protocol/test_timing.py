"""What goes with a request, and where its time went: both transports' completion events with the edge's parts."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tokenrelay.protocol.events import Completion, Failure, Token
from tokenrelay.protocol.reading.feed import Chunk, Feed, Format
from tokenrelay.protocol.store import context, entries
from tokenrelay.protocol.store.context import Context
from tokenrelay.protocol.wire import event_json, formats, timing, websocket
from tokenrelay.protocol.wire.sse import Decoder

STREAM = "0123456789abcdef"
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
WORKER = {"queue_ms": 2.0, "pickup_ms": 1.0, "failed_ms": 0.0, "provider_ms": 300.0, "append_ms": 4.0}
OURS = {"admit_ms": 1.5, "edge_ms": 0.5}
END = Completion(5, "m", "m", "p", "stop", 1, 1, 0.5, timing=WORKER)


def chunk_of(*events: Any, form: Format) -> tuple[Feed, Chunk]:
    feed = Feed(STREAM)
    feed.anchor(0)
    feed.offer(1, [entries.unpack_entry(entries.pack(event)) for event in events])
    chunk = feed.after(0, form)
    assert chunk is not None
    return feed, chunk


def told(end: Any, form: Format) -> Chunk:
    feed, chunk = chunk_of(Token(1, "m", "a"), end, form=form)
    assert feed.newest is not None
    return timing.told(chunk, feed.newest, form, STREAM, OURS, 320.0)


def test_the_parts_add_up_to_the_whole() -> None:
    found = timing.whole({**WORKER, **OURS}, 320.0)
    assert list(found) == [*timing.PARTS, "hops_ms", "ttft_ms"]
    assert found["hops_ms"] == pytest.approx(11.0)
    assert sum(found[name] for name in found if name != "ttft_ms") == pytest.approx(found["ttft_ms"])


def test_no_part_is_negative() -> None:
    assert timing.whole({**WORKER, **OURS}, 300.0)["hops_ms"] == 0.0
    assert timing.ms(-0.1) == 0.0


def test_the_event_that_ends_an_sse_response_has_them_all() -> None:
    frames = list(Decoder().feed(told(END, formats.SSE).body))
    assert [frame.event_id for frame in frames] == ["1", "2"]
    data = json.loads(frames[1].data)
    assert data["timing"] == timing.whole({**WORKER, **OURS}, 320.0)
    without = event_json.data_of(entries.unpack_entry(entries.pack(END)), STREAM)
    assert {**data, "timing": None} == {**without, "timing": None}


@pytest.mark.parametrize("dialect", [websocket.JSON, websocket.MSGPACK], ids=lambda dialect: str(dialect.subprotocol))
def test_so_has_the_message_that_ends_a_stream_on_a_socket(dialect: websocket.Dialect) -> None:
    chunk = told(END, dialect.events)
    frame = websocket.frame(dialect, [chunk.body], chunk.count)
    messages = json.loads(frame) if isinstance(frame, str) else msgspec.msgpack.decode(frame)
    assert [message["id"] for message in messages] == [1, 2]
    assert messages[1]["data"]["timing"]["ttft_ms"] == 320.0


@pytest.mark.parametrize(
    "end", [Failure(5, "TIMEOUT", "late", True), Token(5, "m", "b")], ids=lambda end: type(end).__name__
)
def test_what_is_no_completion_stays_as_it_is(end: Any) -> None:
    _, before = chunk_of(Token(1, "m", "a"), end, form=formats.SSE)
    assert told(end, formats.SSE) == before


def test_a_completion_without_timing_has_the_bytes_it_always_had() -> None:
    assert entries.unpack_entry(entries.pack(Completion(5, "m", "m", "p", "stop", 1, 1, 0.5)))[-1] == 0.5
    event = entries.unpack(entries.pack(END))
    assert isinstance(event, Completion)
    assert event == END


# -- what goes with a request ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (PARENT, PARENT),
        (f"  {PARENT} ", PARENT),
        (PARENT + "-more", PARENT + "-more"),  # a later version may say more
        (PARENT.upper(), ""),
        ("00-" + "0" * 32 + PARENT[35:], ""),
        (PARENT[:36] + "0" * 16 + "-01", ""),
        ("ff" + PARENT[2:], ""),
        (PARENT + "-" + "a" * 100, ""),
        ("a prompt", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_only_a_traceparent_is_taken_up(given: str | None, taken: str) -> None:
    assert context.of_headers("r", given, None).traceparent == taken


@pytest.mark.parametrize(("given", "wanted"), [("1", True), (" 1", True), ("0", False), ("", False), (None, False)])
def test_timing_is_told_to_those_who_ask(given: str | None, wanted: bool) -> None:
    assert context.of_headers("r", None, given).wants_timing is wanted


def test_a_context_travels() -> None:
    sent = Context("r", PARENT, True)
    assert context.unpack(context.pack(sent)) == sent
    assert context.unpack(b"") == context.unpack(b"\xc1rubbish") == Context()
