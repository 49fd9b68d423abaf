"""Input of strangers to both decoders: whatever comes, a command or an error of the table that names its field."""

from __future__ import annotations

import io
import json
import struct
import time
import tracemalloc
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.protocol.cases import STREAM
from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.store import keys
from tokenrelay.protocol.wire import cursor, event_json, request, sse, websocket
from tokenrelay.protocol.wire.request import ChatRequest
from tokenrelay.protocol.wire.websocket import Bad, BadFrame, Dialect, Start

BOTH = pytest.mark.parametrize("dialect", [websocket.JSON, websocket.MSGPACK], ids=["json", "msgpack"])
# The same examples on every run: a failure in CI is one that anybody can repeat.
thorough = settings(max_examples=400, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])

FIELDS = [field.name for field in msgspec.structs.fields(ChatRequest)]
MESSAGE_FIELDS = ["type", "ref", "stream_id", "after", "replay", "idempotency_key"]
NUMBERS = st.sampled_from([0, -1, 2**31, 2**53, 2**63, 2**64 - 1, -(2**63), 1e308, 5e-324, -0.0])
SPECIAL = st.sampled_from([float("inf"), float("-inf"), float("nan")])
LINES = ["\0", "\r\n", "\n", "\u2028", "\u2029", "\x85"]
WORDS = ["", " ", "continue", "grace:1", "scripted", "user", "function", "exact", STREAM, "a" * 300, "\U0001f600"]
TEXTS = st.sampled_from(LINES + WORDS) | st.text(max_size=8)
SCALARS = st.none() | st.booleans() | NUMBERS | st.integers(-(2**63), 2**64 - 1) | TEXTS | st.floats(allow_nan=False)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS) | TEXTS, inner, max_size=4),
    max_leaves=12,
)
TOOLS = st.fixed_dictionaries({}, optional={
    "type": st.just("function") | VALUES, "name": TEXTS | VALUES,
    "function": st.dictionaries(st.sampled_from(["name", "description", "parameters"]), VALUES, max_size=3),
})  # fmt: skip
WISHES = st.dictionaries(st.sampled_from(["strategy", "weights", "avoid", "prefer"]), VALUES, max_size=4)
TURNS = st.lists(st.fixed_dictionaries({}, optional={"role": TEXTS, "content": TEXTS | VALUES}), max_size=3)
LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "message": TEXTS, "messages": TURNS, "tools": st.lists(TOOLS | TEXTS, max_size=3), "preferences": WISHES,
    "max_tokens": NUMBERS, "temperature": NUMBERS | SPECIAL, "top_p": NUMBERS | SPECIAL, "seed": NUMBERS,
}  # fmt: skip
BODIES = st.fixed_dictionaries({}, optional={name: LIKELY.get(name, VALUES) | VALUES for name in FIELDS})
# Half of them ask something, so that what is wrong is found further in.
ASKED = BODIES | BODIES.map(
    lambda body: {"message": "hi", **{k: v for k, v in body.items() if k not in ("prompt", "messages", "message")}}
)
MESSAGES = st.tuples(
    ASKED, st.dictionaries(st.sampled_from(MESSAGE_FIELDS), VALUES, max_size=4),
    st.sampled_from(["start", "start", "resume", "cancel", "detach", "ping", "other"]),
).map(lambda parts: {"type": parts[2], **parts[0], **parts[1]})  # fmt: skip


def has_a_row(error: TokenrelayError) -> None:
    """A clear word: what was wrong where, short, and fit for JSON and msgpack."""
    assert error.code in ("INVALID_REQUEST", "VALIDATION_ERROR", "INVALID_CURSOR", "NOT_FOUND")
    if error.code in ("VALIDATION_ERROR", "INVALID_CURSOR"):
        field = error.fields["field"]
        assert isinstance(field, str)
        assert field
        assert error.fields.get("issue") or error.code == "INVALID_CURSOR"
    assert 0 < len(error.message) < 1_000
    event_json.to_json(error.body("id")).encode("ascii")
    for dialect in (websocket.JSON, websocket.MSGPACK):
        websocket.error_message(dialect, error, None)


def is_whole(asked: ChatRequest) -> None:
    """What was let in can be carried to a worker and is the same there."""
    packed = request.pack(asked)
    assert request.pack(request.unpack(packed)) == packed
    assert asked.fingerprint() == request.unpack(packed).fingerprint()
    assert asked.conversation
    json.dumps(msgspec.to_builtins(asked), allow_nan=False).encode()  # a provider's API takes JSON only


def try_body(raw: bytes) -> None:
    try:
        is_whole(request.parse_json(raw))
    except TokenrelayError as error:
        has_a_row(error)


def try_frame(frame: str | bytes, dialect: Dialect) -> None:
    for command in websocket.parse_frame(frame, dialect):
        if isinstance(command, Bad):
            has_a_row(command.error)
        if isinstance(command, Start):
            is_whole(command.body)
        websocket.message(dialect, "pong", ref=command.ref)


# -- anything
# --------------------------------------------------------------------------------------------------------------


@thorough
@given(ASKED)
def test_any_body_of_json_is_a_request_or_an_error(body: dict[str, Any]) -> None:
    try_body(json.dumps(body).encode())


@thorough
@given(st.binary(max_size=80) | st.text('[]{}:,"\\0123456789eE+-.truefalsn \n\0', max_size=60).map(str.encode))
def test_any_bytes_as_body_are_an_error(raw: bytes) -> None:
    try_body(raw)


@BOTH
@thorough
@given(MESSAGES | st.lists(MESSAGES, max_size=3) | VALUES)
def test_any_message_is_a_command_or_an_error(dialect: Dialect, message: Any) -> None:
    try_frame(msgpack.packb(message) if dialect.is_binary else json.dumps(message), dialect)


@thorough
@given(st.binary(max_size=80))
def test_any_bytes_as_frame_are_a_command_or_an_error(raw: bytes) -> None:
    try_frame(raw, websocket.MSGPACK)


EXTENSIONS = st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=8)) | st.builds(
    msgpack.Timestamp, st.integers(-(2**40), 2**40), st.integers(0, 999_999_999)
)
ODD_NAMES = st.sampled_from(FIELDS) | st.binary(max_size=4)
ODD = st.recursive(
    EXTENSIONS | SPECIAL | st.binary(max_size=8) | SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ODD_NAMES, inner, max_size=3),
    max_leaves=6,
)


@thorough
@given(st.dictionaries(st.sampled_from([*FIELDS, *MESSAGE_FIELDS]) | st.binary(max_size=4), ODD, max_size=4))
def test_what_only_msgpack_can_say_is_an_error_or_harmless(message: dict[Any, Any]) -> None:
    message = {"type": "start", "message": "hi", **message}
    try_frame(msgpack.packb(message), websocket.MSGPACK)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), b"x", msgpack.Timestamp(1)], ids=repr)
def test_what_json_cannot_say_is_refused_where_no_type_describes_it(value: Any) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"a": [value]}}}
    for field, body in (("preferences", {"preferences": {"a": [value]}}), ("tools[0]", {"tools": [tool]})):
        [command] = websocket.parse_frame(msgpack.packb({"type": "start", "message": "hi", **body}), websocket.MSGPACK)
        assert isinstance(command, Bad)
        assert command.error.code in ("VALIDATION_ERROR", "INVALID_REQUEST")
        assert str(command.error.fields["field"]).startswith(field)


@thorough
@given(st.text(max_size=20) | st.text("0123456789-+. \r\n\0\u2028\u0660", max_size=20) | st.integers() | VALUES)
def test_any_cursor_is_an_id_or_an_error(value: Any) -> None:
    try:
        assert 0 <= cursor.parse(value) <= cursor.MAX_ID
    except TokenrelayError as error:
        has_a_row(error)


@thorough
@given(st.text(max_size=70) | st.text("{}:\r\n\0 abcdefghij", min_size=8, max_size=64))
def test_nothing_but_an_id_becomes_part_of_a_key(text: str) -> None:
    if keys.is_stream_id(text):
        assert 8 <= len(text) <= 64
        assert text.isascii()
        assert text.replace("_", "").replace("-", "").isalnum()
    for name in (keys.owner(text), keys.active(text), keys.rate(text), keys.idempotency(text, text)):
        assert name.isascii()
        assert name.isprintable()
        assert " " not in name


@thorough
@given(st.text(max_size=40) | TEXTS, st.integers(1, cursor.MAX_ID))
def test_no_text_leaves_its_line_of_an_event(text: str, event_id: int) -> None:
    """Whatever a model, a tool or a caller says: one `id:` line, one `data:` line, in ASCII."""
    data = event_json.to_json({"token": text, text: text})
    frame = sse.encode_frame(data, event_id)
    assert frame.count(b"\n") == 3
    assert b"\r" not in frame
    assert frame.isascii()
    [decoded] = sse.Decoder().feed(frame)
    assert json.loads(decoded.data)["token"] == text


# -- bombs
# --------------------------------------------------------------------------------------------------------------

DEEP = 200_000
TOOL = '{"message":"a","tools":[{"type":"function","function":{"name":"f","parameters":{"x":%s}}}]}'
BOMBS_OF_JSON: list[tuple[str, str]] = [
    ("lists", "[" * DEEP),
    ("objects", '{"a":' * DEEP),
    ("whole and deep", "[" * DEEP + "]" * DEEP),
    ("in a field that is kept", '{"message":"a","preferences":' + '{"a":' * DEEP + "1" + "}" * DEEP + "}"),
    ("in a field nobody knows", '{"message":"a","x":' + "[" * DEEP + "]" * DEEP + "}"),
    ("a number of many digits", '{"message":"a","seed":' + "9" * 500_000 + "}"),
    ("a number nobody looks at", '{"message":"a","x":' + "9" * 500_000 + "}"),
    ("a fraction of many digits", '{"message":"a","temperature":0.' + "3" * 500_000 + "}"),
    ("a power", '{"message":"a","max_tokens":1e999999999}'),
    ("a name again and again", '{"message":"a",' + '"seed":1,' * 100_000 + '"seed":2}'),
    ("many names", "{" + ",".join(f'"k{number}":1' for number in range(80_000)) + "}"),
    ("escapes", '{"message":"' + "\\u0000" * 150_000 + '"}'),
    ("half a character", '{"message":"\\ud800"}'),
    ("half a character for a name", '{"\\ud800":1,"message":"a"}'),
    ("half a character for a name inside", '{"message":"a","tools":[{"\\ud800":1}],"messages":[{"\\ud800":1}]}'),
    ("NaN", '{"message":"a","temperature":NaN}'),
    ("Infinity", '{"message":"a","preferences":{"weights":{"cost":Infinity}}}'),
    ("minus Infinity, kept", TOOL % "-Infinity"),
    ("infinity by a power, kept", TOOL % "1e999"),
    ("a byte order mark", '\ufeff{"message":"a"}'),
    ("a comment", '{"message":"a"}//'),
    ("two of them", '{"message":"a"}{"message":"b"}'),
]  # fmt: skip


def soon(since: float) -> None:
    """Not a matter of speed: these took minutes, or all memory, where somebody got it wrong."""
    assert time.monotonic() - since < 20


@pytest.mark.parametrize("text", [text for _, text in BOMBS_OF_JSON], ids=[name for name, _ in BOMBS_OF_JSON])
def test_a_bomb_of_json_is_taken_or_refused_soon(text: str) -> None:
    began = time.monotonic()
    try_body(text.encode("utf-8", "surrogatepass"))
    try_frame(text, websocket.JSON)
    try_frame('{"type":"start",' + text[1:], websocket.JSON)
    soon(began)


def nested(depth: int, head: bytes) -> bytes:
    return head * depth + b"\xc0"


BOMBS_OF_MSGPACK: list[tuple[str, bytes]] = [
    ("lists", nested(DEEP, b"\x91")),
    ("maps", nested(DEEP, b"\x81\xa1a")),
    ("depth in a field", b"\x82\xa4type\xa5start\xa1x" + nested(DEEP, b"\x91")),
    ("a list of four billion", b"\xdd\xff\xff\xff\xff"),
    ("a map of four billion", b"\xdf\xff\xff\xff\xff"),
    ("a text of four billion", b"\xdb\xff\xff\xff\xff"),
    ("bytes of four billion", b"\xc6\xff\xff\xff\xff"),
    ("an extension of four billion", b"\xc9\xff\xff\xff\xff\x05"),
    ("lists of many in each other", b"\xdd\x00\x0f\xff\xff" * 1000),
    ("heads that promise what could be there", b"\xdc\x3e\x80" * 900 + b"\xc0" * 13_300),
    ("the same, side by side", b"\xdc\x03\xe8" + (b"\xdc\x03\xe7\xc0") * 1000),
    ("the same of maps", b"\xde\x0f\xa0\xa1a" * 900 + b"\xc0" * 11_500),
    ("a map with a list for a name", b"\x81\x91\x01\x01"),
    ("a map with a number for a name", b"\x81\x01\x01"),
    ("a map with nothing for a name", b"\x81\xc0\x01"),
    ("a timestamp for a type", b"\x81\xa4type\xd6\xff\x00\x00\x00\x00"),
    ("a timestamp out of time", b"\x81\xa4type\xc7\x0c\xff" + struct.pack("!Iq", 2**32 - 1, -(2**63))),
    ("text that is no UTF-8", b"\x81\xa4type\xa2\xff\xfe"),
    ("never used", b"\xc1"),
    ("more after the end", b"\x80\x80"),
]  # fmt: skip


@pytest.mark.parametrize("raw", [raw for _, raw in BOMBS_OF_MSGPACK], ids=[name for name, _ in BOMBS_OF_MSGPACK])
def test_a_bomb_of_msgpack_is_refused_soon(raw: bytes) -> None:
    began = time.monotonic()
    [command] = websocket.parse_frame(raw, websocket.MSGPACK)
    assert isinstance(command, Bad)
    has_a_row(command.error)
    soon(began)


@pytest.mark.parametrize("raw", [raw for _, raw in BOMBS_OF_MSGPACK], ids=[name for name, _ in BOMBS_OF_MSGPACK])
def test_a_frame_costs_memory_in_proportion_to_its_size(raw: bytes) -> None:
    tracemalloc.start()
    try:
        websocket.parse_frame(raw, websocket.MSGPACK)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 500_000 + 100 * len(raw)  # an empty list of one byte takes 56


def test_of_a_name_that_stands_twice_the_last_counts_in_every_decoder() -> None:
    text = '{"type":"start","message":"first","message":"last"}'
    packer, packed = msgpack.Packer(), io.BytesIO()
    packed.write(packer.pack_map_header(3))
    for item in ("type", "start", "message", "first", "message", "last"):
        packed.write(packer.pack(item))
    assert request.parse_json(text.encode()).message == "last"
    for frame, dialect in ((text, websocket.JSON), (packed.getvalue(), websocket.MSGPACK)):
        [command] = websocket.parse_frame(frame, dialect)
        assert isinstance(command, Start)
        assert command.body.message == "last"


def test_a_frame_of_the_other_kind_is_not_read() -> None:
    for frame, dialect in (("{}", websocket.MSGPACK), (b"\x80", websocket.JSON)):
        with pytest.raises(BadFrame):
            websocket.parse_frame(frame, dialect)
