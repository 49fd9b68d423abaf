"""What is cut out before decoding is put back as it was: the result is what decoding in one piece gives."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.wire import large_json, request
from tokenrelay.protocol.wire.request import ChatRequest

LONG = base64.b64encode(bytes(range(256)) * 1024).decode()  # 350 KB
assert len(LONG) > large_json.MIN_BYTES

LONG_STRINGS = [
    LONG,
    f"data:image/png;base64,{LONG}",
    LONG + "\n",
    LONG + '"',
    '"' + LONG,
    f'\\"{LONG}\\"{LONG}',
    LONG + "\\",
    "é" + LONG,
    LONG + "\U0001f600",
    "a,b," + LONG,
    LONG[: large_json.STRIDE],
    " " * len(LONG),
]
strings = st.text(max_size=20) | st.sampled_from(LONG_STRINGS)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | strings,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(strings, inner, max_size=4),
    max_leaves=8,
)


def plain(raw: bytes, kind: Any = Any) -> Any:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return type(error)


def ours(raw: bytes, kind: Any = Any) -> Any:
    try:
        return large_json.decode(raw, kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return type(error)


@settings(max_examples=40, deadline=None)
@given(values, st.booleans(), st.sampled_from([None, 0, 2]))
def test_any_value_is_decoded_as_in_one_piece(value: Any, is_ascii: bool, indent: int | None) -> None:
    raw = json.dumps(value, ensure_ascii=is_ascii, indent=indent).encode("utf-8", "surrogatepass")
    assert ours(raw) == plain(raw)
    assert ours(raw.replace(b"/", b"\\/")) == plain(raw)


@settings(max_examples=40, deadline=None)
@given(values, st.integers(0, 2_000_000), st.sampled_from([b'"', b"\\", b",", b"1", b"\n", b"\xff", b""]))
def test_what_is_no_json_stays_so(value: Any, at: int, rubbish: bytes) -> None:
    raw = json.dumps([value, LONG]).encode()
    at %= len(raw)
    for broken in (raw[:at], raw[:at] + rubbish + raw[at:], raw[:at] + rubbish + raw[at + 1 :]):
        assert ours(broken) == plain(broken)


PART = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{LONG}"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": LONG, "format": "wav"}}
FILE = {"type": "file", "file": {"filename": "a", "file_data": f"data:application/pdf;base64,{LONG}"}}
REQUESTS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": [PART, AUDIO, {"type": "text", "text": 'say "hi"'}, FILE]}]},
    {"message": LONG},
    {"message": "hi", "model": LONG},
    {"message": "hi", "metadata": {"a": LONG}},
    {"message": "hi", "metadata": {LONG: "a"}},
    {"message": "hi", "stop": [LONG]},
    {"message": "hi", "seed": LONG},
    {"message": "hi", "preferences": {"a": [LONG, {LONG: 1}]}},
    {"message": "hi", "tools": [{"type": "function", "function": {"name": "f", "description": LONG}}]},
    {"messages": [{"role": "user", "content": [{"type": LONG}]}]},
    {"messages": [{"role": "user", "content": [PART, {"type": "text", "text": 1}]}]},
]


@pytest.mark.parametrize("body", REQUESTS)
def test_a_request_is_decoded_as_in_one_piece(body: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    raw = json.dumps(body).encode()
    assert large_json.Cut(raw).base64
    assert ours(raw, ChatRequest) == plain(raw, ChatRequest)

    def asked() -> Any:
        try:
            return request.parse_json(raw)
        except TokenrelayError as error:
            return error.code, error.fields.get("field")

    found = asked()
    monkeypatch.setattr(large_json, "decode", lambda raw, kind: msgspec.json.decode(raw, type=kind))
    assert found == asked()


def test_what_is_decoded_is_small() -> None:
    raw = json.dumps(REQUESTS[0]).encode()
    cut = large_json.Cut(raw)
    assert len(cut.base64) == 3
    assert len(cut.text) < 3 * len(large_json.PADDING) + 1_000
