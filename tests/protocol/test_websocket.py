"""WebSocket frames: what each message and each fault becomes, in both dialects."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.protocol.cases import STREAM, entry, pure, token
from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.wire import formats, websocket
from tokenrelay.protocol.wire.request import ChatRequest
from tokenrelay.protocol.wire.websocket import Bad, BadFrame, Cancel, Close, Detach, Dialect, Ping, Resume, Start

BOTH = pytest.mark.parametrize("dialect", [websocket.JSON, websocket.MSGPACK], ids=["json", "msgpack"])


def frame_of(dialect: Dialect, value: Any) -> str | bytes:
    """As a client would send it."""
    packed: str | bytes = msgpack.packb(value) if dialect.is_binary else json.dumps(value)
    return packed


def value_of(frame: str | bytes) -> Any:
    return msgpack.unpackb(frame) if isinstance(frame, bytes) else json.loads(frame)


# -- client to server -------------------------------------------------------------------------------------------------

GOOD: list[tuple[str, dict[str, Any], websocket.Command]] = [
    ("start", {"type": "start", "ref": "a", "message": "hi"}, Start("a", ChatRequest(message="hi"))),
    ("start with a key", {"type": "start", "message": "hi", "idempotency_key": "k"},
     Start(None, ChatRequest(message="hi"), "k")),
    ("start with all the rest", {"type": "start", "ref": 1, "prompt": "hi", "model": "local", "max_tokens": 3},
     Start(1, ChatRequest(prompt="hi", model="local", max_tokens=3))),
    ("start with a field nobody knows", {"type": "start", "message": "hi", "new": 1},
     Start(None, ChatRequest(message="hi"))),
    ("resume", {"type": "resume", "ref": "r", "stream_id": STREAM, "after": "7"}, Resume("r", STREAM, 7, False)),
    ("resume by number", {"type": "resume", "stream_id": STREAM, "after": 7}, Resume(None, STREAM, 7, False)),
    ("resume from the start", {"type": "resume", "stream_id": STREAM}, Resume(None, STREAM, 0, False)),
    ("resume, null is none", {"type": "resume", "stream_id": STREAM, "after": None, "replay": None},
     Resume(None, STREAM, 0, False)),
    ("resume exact", {"type": "resume", "stream_id": STREAM, "after": 1, "replay": "exact"},
     Resume(None, STREAM, 1, True)),
    ("resume compact", {"type": "resume", "stream_id": STREAM, "replay": "compact"}, Resume(None, STREAM, 0, False)),
    ("cancel", {"type": "cancel", "stream_id": STREAM, "ref": -5}, Cancel(-5, STREAM)),
    ("detach", {"type": "detach", "stream_id": STREAM}, Detach(None, STREAM)),
    ("ping", {"type": "ping", "ref": "x" * 128}, Ping("x" * 128)),
    ("ping with the largest number", {"type": "ping", "ref": 2**53 - 1}, Ping(2**53 - 1)),
    ("ping with fields nobody knows", {"type": "ping", "x": [1], "y": {}}, Ping(None)),
]  # fmt: skip


@BOTH
@pytest.mark.parametrize(("message", "command"), [row[1:] for row in GOOD], ids=[row[0] for row in GOOD])
def test_a_message_is_a_command(message: dict[str, Any], command: websocket.Command, dialect: Dialect) -> None:
    assert websocket.parse_frame(frame_of(dialect, message), dialect) == [command]


@BOTH
def test_an_array_is_its_messages_in_order(dialect: Dialect) -> None:
    frame = frame_of(dialect, [message for _, message, _ in GOOD])
    assert websocket.parse_frame(frame, dialect) == [command for _, _, command in GOOD]


WRONG: list[tuple[str, Any, str, str | None, str | int | None]] = [
    # name, message, code, field, ref of the answer
    ("no object", 5, "INVALID_REQUEST", None, None),
    ("text", "ping", "INVALID_REQUEST", None, None),
    ("an array in an array", [[]], "INVALID_REQUEST", None, None),
    ("nothing", None, "INVALID_REQUEST", None, None),
    ("an empty array", [], "INVALID_REQUEST", None, None),
    ("no type", {"ref": "a"}, "VALIDATION_ERROR", "type", "a"),
    ("an unknown type", {"type": "begin", "ref": "a"}, "VALIDATION_ERROR", "type", "a"),
    ("a type in capitals", {"type": "PING", "ref": "a"}, "VALIDATION_ERROR", "type", "a"),
    ("a type that is a list", {"type": ["ping"], "ref": 4}, "VALIDATION_ERROR", "type", 4),
    ("a ref that is too long", {"type": "ping", "ref": "x" * 129}, "VALIDATION_ERROR", "ref", None),
    ("a ref that is a fraction", {"type": "ping", "ref": 1.5}, "VALIDATION_ERROR", "ref", None),
    ("a ref that is true", {"type": "ping", "ref": True}, "VALIDATION_ERROR", "ref", None),
    ("a ref that is too large", {"type": "ping", "ref": 2**53}, "VALIDATION_ERROR", "ref", None),
    ("a ref that is an object", {"type": "ping", "ref": {}}, "VALIDATION_ERROR", "ref", None),
    ("a start that asks nothing", {"type": "start", "ref": "a"}, "VALIDATION_ERROR", "message", "a"),
    ("a start with a wrong type", {"type": "start", "ref": "a", "message": 5}, "VALIDATION_ERROR", "message", "a"),
    ("a start that asks twice", {"type": "start", "message": "a", "prompt": "b"}, "VALIDATION_ERROR", "prompt", None),
    ("a start with a wrong number", {"type": "start", "message": "a", "top_p": 2}, "VALIDATION_ERROR", "top_p", None),
    ("a start with an empty key", {"type": "start", "message": "a", "idempotency_key": ""},
     "VALIDATION_ERROR", "Idempotency-Key", None),
    ("a start with a long key", {"type": "start", "message": "a", "idempotency_key": "k" * 256},
     "VALIDATION_ERROR", "Idempotency-Key", None),
    ("a start with a key of two lines", {"type": "start", "message": "a", "idempotency_key": "k\nk"},
     "VALIDATION_ERROR", "Idempotency-Key", None),
    ("a start with a number as key", {"type": "start", "message": "a", "idempotency_key": 5},
     "VALIDATION_ERROR", "Idempotency-Key", None),
    ("a resume of nothing", {"type": "resume", "ref": "r"}, "VALIDATION_ERROR", "stream_id", "r"),
    ("a resume of a number", {"type": "resume", "stream_id": 5}, "VALIDATION_ERROR", "stream_id", None),
    ("a resume of what is no id", {"type": "resume", "stream_id": "../x"}, "NOT_FOUND", None, None),
    ("a resume from a word", {"type": "resume", "stream_id": STREAM, "after": "x"}, "INVALID_CURSOR", "after", None),
    ("a resume from true", {"type": "resume", "stream_id": STREAM, "after": True}, "INVALID_CURSOR", "after", None),
    ("a resume from a list", {"type": "resume", "stream_id": STREAM, "after": [1]}, "INVALID_CURSOR", "after", None),
    ("a replay nobody knows", {"type": "resume", "stream_id": STREAM, "replay": "fast"},
     "VALIDATION_ERROR", "replay", None),
    ("a replay that is a list", {"type": "resume", "stream_id": STREAM, "replay": []},
     "VALIDATION_ERROR", "replay", None),
    ("a cancel of nothing", {"type": "cancel", "ref": "c"}, "VALIDATION_ERROR", "stream_id", "c"),
    ("a detach of what is too short", {"type": "detach", "stream_id": "abc"}, "NOT_FOUND", None, None),
]  # fmt: skip


@BOTH
@pytest.mark.parametrize(("message", "code", "field", "ref"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_message_that_breaks_the_rules_is_answered(
    message: Any, code: str, field: str | None, ref: str | int | None, dialect: Dialect
) -> None:
    [command] = websocket.parse_frame(frame_of(dialect, message), dialect)
    assert isinstance(command, Bad)
    assert (command.error.code, command.error.fields.get("field"), command.ref) == (code, field, ref)


@BOTH
def test_one_wrong_message_does_not_hold_up_the_others(dialect: Dialect) -> None:
    frame = frame_of(dialect, [{"type": "ping", "ref": 1}, {"type": "no"}, {"type": "ping", "ref": 2}])
    first, wrong, last = websocket.parse_frame(frame, dialect)
    assert (first, last) == (Ping(1), Ping(2))
    assert isinstance(wrong, Bad)


@BOTH
@pytest.mark.parametrize(("count", "is_taken"), [(256, True), (257, False)])
def test_a_frame_has_a_bounded_number_of_messages(count: int, is_taken: bool, dialect: Dialect) -> None:
    commands = websocket.parse_frame(frame_of(dialect, [{"type": "ping"}] * count), dialect)
    assert (commands == [Ping(None)] * count) is is_taken
    assert is_taken or isinstance(commands[0], Bad)


UNREADABLE: list[tuple[Dialect, str | bytes]] = [
    *(
        (websocket.JSON, text)
        for text in ("", "{", "{}x", "nul", '{"a":NaN}', "[Infinity]", "\x00", "[" * 5000, "1" * 5000)
    ),
    *((websocket.MSGPACK, data) for data in (b"", b"\xc1", b"\x81\xa1a", b"\x80\x00", b"\xa1\xff", b"\x91" * 5000)),
    (websocket.MSGPACK, b"\x81\x01\x02"),  # a map whose key is no string
]


@pytest.mark.parametrize(("dialect", "frame"), UNREADABLE)
def test_a_frame_that_cannot_be_read_is_answered_once(dialect: Dialect, frame: str | bytes) -> None:
    [command] = websocket.parse_frame(frame, dialect)
    assert isinstance(command, Bad)
    assert command.error.code == "INVALID_REQUEST"
    assert command.error.message.isprintable()


@pytest.mark.parametrize(
    ("dialect", "frame"),
    [(websocket.JSON, b"{}"), (websocket.MSGPACK, "{}"), (websocket.JSON, b""), (websocket.MSGPACK, "")],
)
def test_a_frame_of_the_other_kind_closes_the_socket(dialect: Dialect, frame: str | bytes) -> None:
    with pytest.raises(BadFrame) as caught:
        websocket.parse_frame(frame, dialect)
    assert caught.value.close is Close.UNSUPPORTED
    assert dialect.subprotocol in caught.value.reason


leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text("aé\ud800\0", max_size=3)
kinds = st.sampled_from(["start", "resume", "cancel", "detach", "ping", None, 5, "x"])
names = st.sampled_from(["ref", "stream_id", "after", "replay", "message", "messages", "preferences", "tools", "stop"])
anything = st.recursive(leaves, lambda it: st.lists(it, max_size=3) | st.dictionaries(names, it, max_size=3))
messages = st.builds(lambda kind, rest: {**rest, "type": kind}, kinds, st.dictionaries(names, anything, max_size=5))


@given(messages | st.lists(messages, max_size=3) | anything)
@pure
def test_any_json_is_commands(value: Any) -> None:
    assert websocket.parse_frame(json.dumps(value), websocket.JSON)


@given(st.text(max_size=30))
@example('{"type":"start","message":"\\ud800"}')
@example('{"type":"start","message":"x","preferences":{"a":1e999}}')
@example('{"type":"start","message":"x","preferences":{"a":' + "[" * 800 + "]" * 800 + "}}")
@example('{"type":"start","message":"x","preferences":{"a":' + "9" * 40 + "}}")
@pure
def test_any_text_is_commands(text: str) -> None:
    assert websocket.parse_frame(text, websocket.JSON)


def start_with(value: Any) -> bytes:
    packed: bytes = msgpack.packb({"type": "start", "message": "x", "preferences": {"a": value}})
    return packed


@given(st.binary(max_size=30))
@example(start_with(msgpack.Timestamp(1, 2)))
@example(start_with(msgpack.ExtType(5, b"x")))
@example(start_with(b"bytes"))
@example(msgpack.packb({"type": "start", b"message": "x"}))
@example(msgpack.packb({"type": "start", "message": b"x"}))
@example(msgpack.packb({b"type": "ping"}))
@pure
def test_any_bytes_are_commands(data: bytes) -> None:
    assert websocket.parse_frame(data, websocket.MSGPACK)


# -- server to client -------------------------------------------------------------------------------------------------


@BOTH
def test_an_answer_keeps_its_ref_even_if_none_and_leaves_other_nones_out(dialect: Dialect) -> None:
    body = websocket.message(dialect, "started", ref=None, stream_id=STREAM, done=None)
    assert value_of(websocket.frame(dialect, [body], 1)) == {"type": "started", "ref": None, "stream_id": STREAM}


@BOTH
def test_a_message_without_ref_has_none(dialect: Dialect) -> None:
    body = websocket.message(dialect, "reconnect", after_ms=700)
    assert value_of(websocket.frame(dialect, [body], 1)) == {"type": "reconnect", "after_ms": 700}


@BOTH
def test_an_error_says_what_its_row_and_its_fields_say(dialect: Dialect) -> None:
    error = TokenrelayError("RATE_LIMIT", "too many", retry_after=3)
    assert value_of(websocket.frame(dialect, [websocket.error_message(dialect, error, "r", STREAM)], 1)) == {
        "type": "error", "ref": "r", "stream_id": STREAM, "error": "too many", "error_code": "RATE_LIMIT",
        "retryable": True, "retry_after": 3,
    }  # fmt: skip


@BOTH
def test_one_message_is_a_frame_and_several_are_an_array(dialect: Dialect) -> None:
    pong = websocket.message(dialect, "pong", ref=1)
    events = [dialect.events.encode(entry(token(text)), number, STREAM) for number, text in ((1, "a"), (2, "é"))]
    joined = dialect.events.separator.join(events)
    values = [value_of(websocket.frame(dialect, [body], 1)) for body in (pong, *events)]
    assert value_of(websocket.frame(dialect, [pong, joined], 3)) == values
    assert value_of(websocket.frame(dialect, [joined], 2)) == values[1:]
    assert values[2]["data"]["token"] == "é"


def test_an_array_of_many_has_a_head_of_its_size() -> None:
    pong = websocket.message(websocket.MSGPACK, "pong", ref=None)
    assert len(value_of(websocket.frame(websocket.MSGPACK, [pong] * 70_000, 70_000))) == 70_000


def test_text_frames_are_ascii() -> None:
    body = formats.WS_JSON.encode(entry(token("é\u2028")), 1, STREAM)
    assert isinstance(frame := websocket.frame(websocket.JSON, [body], 1), str)
    assert frame.isascii()


def test_subprotocols_are_found_by_name() -> None:
    assert websocket.DIALECTS == {"tokenrelay.v1.json": websocket.JSON, "tokenrelay.v1.msgpack": websocket.MSGPACK}
