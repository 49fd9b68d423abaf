"""Parts of a turn: counted without decoding, their bytes taken out and found again by their numbers."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.cases import pure
from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.wire import parts, request
from tokenrelay.protocol.wire.parts import AudioPart, Bounds, FilePart, ImagePart, TextPart
from tokenrelay.protocol.wire.request import ChatRequest

SMALL = Bounds(parts=3, part_bytes=8, total_bytes=12)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def picture(data: bytes, kind: str = "image/png") -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{b64(data)}"}}


def document(data: bytes, name: str = "a.pdf") -> dict[str, Any]:
    return {"type": "file", "file": {"filename": name, "file_data": f"data:application/pdf;base64,{b64(data)}"}}


def sound(data: bytes) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": b64(data), "format": "mp3"}}


def at(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def asked(*turns: list[dict[str, Any]], bounds: Bounds = parts.Bounds()) -> ChatRequest:  # noqa: B008  it is frozen
    body = {"messages": [{"role": "user", "content": turn} for turn in turns]}
    return request.parse_json(json.dumps(body).encode(), bounds)


def refused(*turns: list[dict[str, Any]], bounds: Bounds = SMALL) -> tuple[str, str]:
    with pytest.raises(TokenrelayError) as caught:
        request.take_out(asked(*turns, bounds=bounds))
    assert caught.value.status == 422
    return caught.value.fields["field"], caught.value.fields["issue"]


def test_what_stands_at_a_bound_is_taken() -> None:
    whole = request.take_out(
        asked([picture(b"12345678"), text("what?"), document(b"1234")], [at("https://a.b/c")], bounds=SMALL)
    )
    assert whole.blobs == [b"12345678", b"1234"]


BEYOND: list[tuple[str, list[list[dict[str, Any]]], str, str]] = [
    ("a part", [[text("a"), picture(b"123456789")]], "messages[0].content[1]", "at most 8 bytes, got 9"),
    ("their sum", [[picture(b"12345678")], [sound(b"12345")]], "messages[1].content[0]", "at most 12 bytes in all"),
    ("their number", [[at("https://a.b/c")] * 2, [sound(b"1")] * 2], "messages[1].content[1]", "at most 3 parts"),
]  # fmt: skip


@pytest.mark.parametrize(("turns", "field", "words"), [row[1:] for row in BEYOND], ids=[row[0] for row in BEYOND])
def test_what_is_beyond_a_bound_is_refused_with_its_field(
    turns: list[list[dict[str, Any]]], field: str, words: str
) -> None:
    named, issue = refused(*turns)
    assert named == field
    assert words in issue


NO_BASE64 = ["Q", "QQ", "QQ=", "Q===", "QQ==QQ==", "Q Q=", "QQ-_", "é===", "====", "QQ==\n", "=QQQ"]


@pytest.mark.parametrize("data", NO_BASE64)
def test_what_is_no_base64_is_refused_with_its_field(data: str) -> None:
    for part, inner in (
        ({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}, "image_url.url"),
        ({"type": "file", "file": {"file_data": f"data:a/b;base64,{data}"}}, "file.file_data"),
        ({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}, "input_audio.data"),
    ):
        field, issue = refused([text("a"), part], bounds=Bounds())
        assert (field, "base64" in issue) == (f"messages[0].content[1].{inner}", True)


@pytest.mark.parametrize("wrong", ["QQ==", "Q-=="])
def test_padding_or_rubbish_between_the_steps_is_refused(wrong: str) -> None:
    """It is decoded in steps: what is wrong at the end of one must not become right by it."""
    body = "A" * (parts.STEP - 4) + wrong + "AAAA"
    part = {"type": "input_audio", "input_audio": {"data": body, "format": "wav"}}
    assert refused([part], bounds=Bounds())[0] == "messages[0].content[0].input_audio.data"


def test_nothing_at_all_is_no_part() -> None:
    field, issue = refused([at("data:image/png;base64,")])
    assert (field, issue) == ("messages[0].content[0].image_url.url", "expected some bytes")


def test_bytes_become_numbers_and_kinds_and_everything_else_stays() -> None:
    taken = request.take_out(
        asked(
            [text("a"), picture(b"one", "image/JPEG;name=x"), at("https://a.b/c.png")],
            [document(b"two"), sound(b"three")],
        )
    )
    assert taken.blobs == [b"one", b"two", b"three"]
    [first, second] = taken.request.contents
    assert first == [
        TextPart("a"),
        ImagePart(parts.ImageUrl(), 0, "image/jpeg"),
        ImagePart(parts.ImageUrl("https://a.b/c.png")),
    ]
    assert second == [
        FilePart(parts.FileSource("a.pdf"), 1, "application/pdf"),
        AudioPart(parts.AudioSource("mp3"), 2, "audio/mpeg"),
    ]
    assert request.unpack(request.pack(taken.request)) == taken.request


def test_a_request_without_parts_is_left_as_it_is() -> None:
    plain = request.parse_json(b'{"message": "hi"}')
    assert request.take_out(plain) == (plain, [])
    assert request.take_out(plain).request is plain


def test_the_fingerprint_knows_the_bytes() -> None:
    same, again, other = (request.take_out(asked([picture(data)])) for data in (b"1", b"1", b"2"))
    assert same.request.fingerprint(same.blobs) == again.request.fingerprint(again.blobs)
    assert same.request.fingerprint(same.blobs) != other.request.fingerprint(other.blobs)
    swapped = request.take_out(asked([picture(b"1"), picture(b"2")])).blobs[::-1]
    two = request.take_out(asked([picture(b"1"), picture(b"2")]))
    assert two.request.fingerprint(two.blobs) != two.request.fingerprint(swapped)


def test_what_a_model_has_to_accept_is_named_with_its_first_field() -> None:
    assert request.kinds_of(asked([text("a")])) == {}
    body = asked([text("a"), picture(b"1"), sound(b"1")], [picture(b"1"), document(b"1")])
    assert request.kinds_of(body) == {
        "images": "messages[0].content[1]", "audio": "messages[0].content[2]", "files": "messages[1].content[1]",
    }  # fmt: skip
    by_address = asked([{"type": "file", "file": {"filename": "a.pdf", "file_url": "https://a.b/c"}}])
    assert request.kinds_of(by_address).keys() == {"files", "file_url"}


def test_what_no_model_is_told_is_known_by_its_name() -> None:
    asks = {"message": "hi", "logprobs": True, "n": 2, "top_k": 0, "presence_penalty": None, "logit_bias": {}}
    assert request.from_object(asks).not_taken == ("logprobs", "n")
    assert request.from_object({"message": "hi", "n": 1}).not_taken == ()


def test_only_what_is_in_base64_counts_as_inline() -> None:
    body = asked([text("a"), at("https://a.b/c"), picture(b"123"), sound(b"123")], [document(b"123")])
    heads = len("data:image/png;base64,") + len("data:application/pdf;base64,")
    assert parts.inline_bytes(body.contents) == heads + 3 * 4
    assert parts.inline_bytes([None, "text"]) == 0


@pytest.mark.parametrize(
    "part",
    [
        {"type": "file", "file": {"filename": "\ud800", "file_data": "data:a/b;base64,QQ=="}},
        {"type": "file", "file": {"filename": "\ud800", "file_url": "https://a.b/c"}},
        {"type": "text", "text": "\ud800"},
    ],
)
def test_what_utf8_cannot_carry_is_refused_in_parts_too(part: dict[str, Any]) -> None:
    with pytest.raises(TokenrelayError) as caught:
        request.from_object({"messages": [{"role": "user", "content": [text("a"), part]}]})
    assert caught.value.code == "INVALID_REQUEST"


def test_a_turn_of_parts_has_the_text_of_all() -> None:
    body = asked([text("a"), picture(b"1"), text(" b")])
    assert [turn.text for turn in body.conversation] == ["a b"]


@given(st.lists(st.binary(min_size=1, max_size=70), min_size=1, max_size=5))
@pure
def test_what_goes_in_comes_out(blobs: list[bytes]) -> None:
    body = asked([document(blob) for blob in blobs])
    assert request.take_out(body).blobs == blobs
    parts.Total(Bounds(20, 70, sum(map(len, blobs)))).count("f", body.contents[0] or [])  # type: ignore[arg-type]


def test_bytes_beyond_a_step_come_out_too() -> None:
    blob = bytes(range(256)) * 1024
    assert request.take_out(asked([document(blob + b"x")])).blobs == [blob + b"x"]


def test_the_body_has_room_for_its_parts_in_base64() -> None:
    assert Bounds(1, 10, 10).body_bytes == len(b64(b"1234567890"))
    assert Bounds().body_bytes == 34_952_536
