"""Where one request ends and the next begins, whatever it offers and however it is cut into segments."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.raw import handshake
from tests.server.net.memory import say

HOST = b"Host: a\r\n"
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
NEXT = b"GET /next HTTP/1.1\r\n" + HOST + b"\r\n"
INNER = b"GET /inner HTTP/1.1\r\n" + HOST + b"\r\n"
"""What an attacker would have read as a request: it is a body."""


def post(head: bytes, body: bytes = INNER, *, length: bool = True) -> bytes:
    size = b"Content-Length: %d\r\n" % len(body) if length else b""
    return b"POST /a HTTP/1.1\r\n" + HOST + head + size + b"\r\n" + body


def chunked(body: bytes, trailer: bytes = b"") -> bytes:
    return b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(body), body, trailer)


BODIES = [
    ("no offer", post(b"")),
    ("h2c", post(OFFER)),
    ("h2c, in chunks", post(OFFER + b"Transfer-Encoding: chunked\r\n", chunked(INNER), length=False)),
    ("TLS", post(b"Connection: upgrade\r\nUpgrade: TLS/1.3\r\n")),
    ("several", post(b"Connection: upgrade\r\nUpgrade: websocket, h2c\r\n")),
    ("in two lines", post(b"Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n")),
    ("WebSocket by POST", post(b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n")),
    ("an offer that Connection does not name", post(b"Connection: keep-alive\r\nUpgrade: websocket\r\n")),
]


@pytest.mark.parametrize("sent", [row[1] for row in BODIES], ids=[row[0] for row in BODIES])
def test_a_body_is_a_body_and_the_next_request_is_the_next(sent: bytes) -> None:
    async def scene() -> None:
        whole = sent + NEXT
        # Every place near an end, and some between: a segment may end anywhere.
        ends = {at + off for at in (len(sent) - len(INNER), len(sent), len(whole)) for off in range(-4, 5)}
        for cut in sorted({at for at in ends | set(range(7, len(whole), 29)) if 0 < at < len(whole)}):
            for at_once in (True, False):
                heard = await say([whole[:cut], whole[cut:]], at_once=at_once)
                assert [(each.method, each.path, each.body) for each in heard.asked] == EXPECTED, (cut, at_once)
                assert (heard.statuses, heard.is_closed) == ([200, 200], False)
        heard = await say([whole[at : at + 1] for at in range(len(whole))])
        assert [(each.method, each.path, each.body) for each in heard.asked] == EXPECTED

    asyncio.run(scene())


EXPECTED = [("POST", "/a", INNER), ("GET", "/next", b"")]


def test_an_offer_without_a_body_loses_nothing_either() -> None:
    heard = asyncio.run(say([(b"GET /a HTTP/1.1\r\n" + HOST + OFFER + b"\r\n" + NEXT) * 3]))
    assert [each.path for each in heard.asked] == ["/a", "/next"] * 3


@given(
    kinds=st.lists(st.sampled_from([row[1] for row in BODIES]), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 2_000), max_size=6),
    at_once=st.booleans(),
)
def test_any_requests_in_any_segments_are_those_requests(kinds: list[bytes], cuts: list[int], at_once: bool) -> None:
    whole = b"".join(kind + NEXT for kind in kinds)
    places = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    parts = [whole[start:end] for start, end in pairwise(places)]
    heard = asyncio.run(say(parts, at_once=at_once))
    assert [(each.method, each.path, each.body) for each in heard.asked] == EXPECTED * len(kinds)


def test_a_handshake_is_taken_and_what_comes_early_waits_for_it() -> None:
    ping = b"\x89\x82\0\0\0\0hi"
    for parts in ([handshake().encode() + ping], [handshake().encode(), ping]):
        heard = asyncio.run(say(parts, at_once=True))
        assert heard.statuses == [101]
        assert heard.answered.endswith(b"\r\n\r\n\x8a\x02hi")  # the pong, behind the head


def test_a_handshake_with_a_body_is_no_handshake() -> None:
    sent = handshake(method="GET")[:-2].encode() + b"Content-Length: %d\r\n\r\n" % len(INNER) + INNER
    heard = asyncio.run(say([sent + NEXT]))
    assert [(each.path, each.body) for each in heard.asked] == [("/api/ws", INNER), ("/next", b"")]


def test_a_handshake_behind_an_unanswered_request_does_not_write_into_its_answer() -> None:
    heard = asyncio.run(say([NEXT + handshake().encode()], at_once=True))
    assert heard.statuses == [200]
    assert heard.is_closed


TRAILERS = b"Authorization: Bearer stolen\r\nHost: b\r\nExpect: 100-continue\r\n"


def test_trailers_are_neither_of_their_request_nor_of_the_next() -> None:
    first = post(b"Transfer-Encoding: chunked\r\nTrailer: Authorization\r\n", chunked(b"hello", TRAILERS), length=False)

    async def scene() -> None:
        for cut in range(1, len(first), 3):
            heard = await say([first[:cut], first[cut:] + NEXT])
            assert [each.body for each in heard.asked] == [b"hello", b""]
            assert not {b"authorization", b"expect"} & {name for each in heard.asked for name, _ in each.headers}
            assert b"100 Continue" not in heard.answered

    asyncio.run(scene())


def old(head: bytes, body: bytes = b"") -> bytes:
    return b"POST /a HTTP/1.0\r\n" + head + b"\r\n" + body


def test_http_1_0_gets_no_chunks_and_the_end_of_the_connection() -> None:
    heard = asyncio.run(say([old(b"Content-Length: 5\r\n", b"hello")]))
    assert heard.asked[0].body == b"hello"
    assert b"chunked" not in heard.answered
    assert heard.answered.endswith(b"\r\n\r\nhello")
    assert heard.is_closed


def test_http_1_1_gets_chunks_and_keeps_its_connection() -> None:
    heard = asyncio.run(say([post(b"", b"hello")]))
    assert b"transfer-encoding: chunked" in heard.answered
    assert not heard.is_closed


REFUSED = [
    ("two hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
    ("no host", b"GET / HTTP/1.1\r\n\r\n"),
    ("a host that is none", b"GET / HTTP/1.1\r\nHost: a b/c\r\n\r\n"),
    ("an empty host", b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    ("chunks in HTTP/1.0", old(b"Host: a\r\nTransfer-Encoding: chunked\r\n", chunked(INNER))),
    ("another coding", post(b"Transfer-Encoding: gzip, chunked\r\n", chunked(INNER), length=False)),
    ("a coding twice", post(b"Transfer-Encoding: chunked\r\n" * 2, chunked(INNER), length=False)),
    ("no coding", post(b"Transfer-Encoding: identity\r\n")),
    ("a coding with a space", post(b"Transfer-Encoding : chunked\r\n", chunked(INNER), length=False)),
    ("length and coding", post(b"Transfer-Encoding: chunked\r\n", chunked(INNER))),
    ("two lengths", post(b"Content-Length: 3\r\n")),
    ("lengths in a list", post(b"Content-Length: 3, 3\r\n", b"abc", length=False)),
    ("a length with a sign", post(b"Content-Length: +3\r\n", b"abc", length=False)),
    ("two credentials", post(b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n")),
    ("HTTP/0.9", b"GET /\r\n"),
    ("HTTP/2 in words", b"GET / HTTP/2.0\r\n" + HOST + b"\r\n"),
    ("HTTP/1.2", b"GET / HTTP/1.2\r\n" + HOST + b"\r\n"),
    ("a proxy's method", b"CONNECT a:80 HTTP/1.1\r\n" + HOST + b"\r\n"),
    ("a chunk that is none", post(b"Transfer-Encoding: chunked\r\n", b"zz\r\n", length=False)),
    ("a chunk without its end", post(b"Transfer-Encoding: chunked\r\n", b"5\r\nhelloX\r\n0\r\n\r\n", length=False)),
    ("a line that ends in LF alone", b"GET / HTTP/1.1\nHost: a\n\n"),
    ("h2c with two hosts", post(OFFER + HOST)),
]


@pytest.mark.parametrize("sent", [row[1] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_has_two_readings_is_refused_and_ends_the_connection(sent: bytes) -> None:
    async def scene() -> None:
        for parts in ([sent + NEXT], [sent[:20], sent[20:] + NEXT], [sent[at : at + 1] for at in range(len(sent))]):
            heard = await say(parts)
            assert (heard.asked, heard.statuses, heard.is_closed) == ([], [400], True)
            assert b"x-content-type-options: nosniff" in heard.answered

    asyncio.run(scene())


def test_nonsense_behind_an_unanswered_request_is_not_its_answer() -> None:
    heard = asyncio.run(say([post(b"", b"hello") + b"\0nonsense\r\n\r\n"], at_once=True))
    assert [each.body for each in heard.asked] == [b"hello"]
    assert (heard.statuses, heard.is_closed) == ([200], True)


def test_a_body_that_nobody_reads_is_no_request() -> None:
    heard = asyncio.run(say([post(b"")[:-5], INNER[-5:] + NEXT], reads=False))
    assert [each.path for each in heard.asked] == ["/a", "/next"]
    assert (heard.statuses, heard.is_closed) == ([401, 401], False)


def test_a_refusal_to_one_who_waits_to_go_on_ends_the_connection() -> None:
    """Its body may come or not: what follows could be either."""
    waiting = post(b"Expect: 100-continue\r\n")[: -len(INNER)]
    heard = asyncio.run(say([waiting, NEXT], reads=False))
    assert [each.path for each in heard.asked] == ["/a"]
    assert (heard.statuses, heard.is_closed) == ([401], True)
    assert b"connection: close" in heard.answered
    heard = asyncio.run(say([waiting, INNER + NEXT]))
    assert heard.statuses == [100, 200, 200]


def test_http_1_0_is_not_told_to_go_on() -> None:
    heard = asyncio.run(say([old(b"Expect: 100-continue\r\nContent-Length: 5\r\n"), b"hello"]))
    assert heard.statuses == [200]
