"""Chunks and frames: whole, byte by byte, and with what no server may send."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenrelay.loadtest.framing import BINARY, PING, TEXT, BadFraming, Dechunker, FrameReader, client_frame

CHUNKED = b"5\r\nhello\r\n1;x=y\r\n \r\nc\r\nwide\r\n\r\nline\r\n0\r\n\r\n"
BODY = b"hello wide\r\n\r\nline"


def pieces(whole: bytes, cuts: list[int]) -> list[bytes]:
    at = [0, *sorted(cut % (len(whole) + 1) for cut in cuts), len(whole)]
    return [whole[begin:end] for begin, end in pairwise(at)]


@given(st.lists(st.integers(0, 100)))
def test_chunks_come_in_any_pieces(cuts: list[int]) -> None:
    dechunker = Dechunker()
    assert b"".join(map(dechunker.feed, pieces(CHUNKED, cuts))) == BODY
    assert dechunker.has_ended


@pytest.mark.parametrize("rubbish", [b"zz\r\n", b"\r\n\r\n", b"1" * 100])
def test_what_is_no_chunk_is_refused(rubbish: bytes) -> None:
    with pytest.raises(BadFraming):
        Dechunker().feed(rubbish)


def server_frame(opcode: int, payload: bytes, *, last: bool = True) -> bytes:
    """As a server sends it: the client's without the mask."""
    masked = client_frame(opcode, payload, b"\0\0\0\0")
    head = len(masked) - len(payload) - 4
    first = opcode | (0x80 if last else 0)
    return bytes((first, masked[1] & 0x7F)) + masked[2:head] + payload


@given(st.lists(st.tuples(st.sampled_from([TEXT, BINARY, PING]), st.binary(max_size=300))), st.lists(st.integers(0)))
def test_frames_come_in_any_pieces(messages: list[tuple[int, bytes]], cuts: list[int]) -> None:
    whole = b"".join(server_frame(*message) for message in messages)
    reader = FrameReader()
    assert [message for piece in pieces(whole, cuts) for message in reader.feed(piece)] == messages


def test_a_message_in_several_frames_with_a_ping_between() -> None:
    whole = server_frame(TEXT, b"ab", last=False) + server_frame(PING, b"!") + server_frame(0, b"c")
    assert FrameReader().feed(whole) == [(PING, b"!"), (TEXT, b"abc")]


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_frames_of_every_length_form(size: int) -> None:
    assert FrameReader().feed(server_frame(BINARY, b"x" * size)) == [(BINARY, b"x" * size)]


def test_a_masked_frame_from_a_server_is_refused() -> None:
    with pytest.raises(BadFraming):
        FrameReader().feed(client_frame(TEXT, b"hello"))


def test_a_client_masks() -> None:
    # RFC 6455 section 5.7: a single-frame masked text message, "Hello"
    assert client_frame(TEXT, b"Hello", b"\x37\xfa\x21\x3d") == bytes.fromhex("818537fa213d7f9f4d5158")
