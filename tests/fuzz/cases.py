"""Random input for what reads strangers' bytes, and what must hold for all of it. Each case is one seed's."""

from __future__ import annotations

import asyncio
import json
import random
import time
import tracemalloc
from collections.abc import Callable
from typing import Any, Final

import msgpack

from tests.raw import frame, handshake
from tests.server.net.memory import Heard, say
from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.wire import request, websocket

HOST: Final = b"Host: a\r\n"
INNER: Final = b"GET /inner HTTP/1.1\r\n" + HOST + b"\r\n"
OFFERS: Final = (
    b"", b"", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket, h2c\r\n", b"Connection: upgrade\r\nUpgrade: TLS/1.2\r\n",
    b"Upgrade: websocket\r\n", b"Connection: keep-alive, upgrade\r\nUpgrade: foo\r\n", b"Expect: 100-continue\r\n",
)  # fmt: skip
ODD: Final = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"Host: b\r\n", b"Content-Length: 3\r\n", b"Upgrade: h2c\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n", b"HTTP/1.0", b"0\r\n\r\n", b"5;a=b\r\n", b"\xff",
    b"Connection: close\r\n", INNER,
)  # fmt: skip
NAMES: Final = (
    "type", "ref", "message", "messages", "role", "content", "stream_id", "after", "tools", "stop", "x", "preferences",
    "function", "parameters", "tool_calls", "id", "arguments", "model",
)  # fmt: skip
LIES: Final = (b"\xdc\xff\xff", b"\xdd\0\0\x40\0", b"\xde\x3e\x80", b"\xdf\xff\xff\xff\xff", b"\xc6\0\x10\0\0")
"""Heads of msgpack that promise more than follows."""

SECONDS_A_BYTE: Final = 20e-6
BYTES_A_BYTE: Final = 200
"""Generous: a decoder spends less than a microsecond and 64 bytes on each. What is quadratic is found all the same."""


def pieces(rng: random.Random, whole: bytes) -> list[bytes]:
    """The same bytes in random segments."""
    most = rng.choice((1, 3, 20, 200, 5_000))
    parts, at = [], 0
    while at < len(whole):
        size = rng.randint(1, most)
        parts.append(whole[at : at + size])
        at += size
    return parts


def mutated(rng: random.Random, whole: bytes) -> bytes:
    """With a few bytes changed, cut, doubled or put in."""
    out = bytearray(whole)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(4):
            case 0:
                out[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del out[at : at + rng.randint(1, 30)]
            case 2:
                out[at:at] = rng.choice(ODD)
            case _:
                out[at:at] = out[at : at + rng.randint(1, 60)]
    return bytes(out)


def http_request(rng: random.Random, number: int) -> tuple[bytes, tuple[str, str, bytes]]:
    """A valid request, and what the application is to get of it."""
    method, path = rng.choice(("POST", "PUT")), f"/{number}"
    body = rng.choice((b"", b"hello", INNER, INNER * 3, bytes(rng.randrange(256) for _ in range(50))))
    head = f"{method} {path} HTTP/1.1\r\n".encode() + HOST + rng.choice(OFFERS)
    if rng.random() < 0.5:
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body, (method, path, body)
    chunks = [part for part in pieces(rng, body) if part]
    trailer = rng.choice((b"", b"Authorization: Bearer stolen\r\n", b"X-A: b\r\nHost: b\r\n"))
    sent = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in chunks) + b"0\r\n" + trailer + b"\r\n"
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + sent, (method, path, body)


def valid_requests_arrive_as_they_are(rng: random.Random) -> None:
    made = [http_request(rng, number) for number in range(rng.randint(1, 6))]
    whole = b"".join(sent for sent, _ in made)
    heard = asyncio.run(say(pieces(rng, whole), at_once=rng.random() < 0.5))
    assert [(each.method, each.path, each.body) for each in heard.asked] == [wanted for _, wanted in made]
    assert not any(name == b"authorization" for each in heard.asked for name, _ in each.headers)


def any_bytes_mean_the_same_in_any_segments(rng: random.Random) -> None:
    whole = b"".join(http_request(rng, number)[0] for number in range(rng.randint(1, 4)))
    sent = mutated(rng, whole)

    def understood(heard: Heard) -> list[Any]:
        return [(each.method, each.path, each.body, each.headers) for each in heard.asked]

    first = asyncio.run(say([sent]))
    for at_once in (True, False):
        assert understood(asyncio.run(say(pieces(rng, sent), at_once=at_once))) == understood(first)


def any_frames_mean_the_same_in_any_segments(rng: random.Random) -> None:
    sent = b""
    for _ in range(rng.randint(1, 8)):
        payload = bytes(rng.choice(b'[]{}"ax1,:\xff\x00') for _ in range(rng.choice((0, 1, 10, 200))))
        fin, masked = rng.random() < 0.8, rng.random() < 0.95
        sent += frame(rng.choice((0, 1, 1, 2, 8, 9, 10, 5)), payload, fin=fin, masked=masked)
    if rng.random() < 0.5:
        sent = mutated(rng, sent)
    hello = handshake().encode()
    first = asyncio.run(say([hello, sent])).messages
    second = asyncio.run(say([hello, *pieces(rng, sent)])).messages
    early = asyncio.run(say([hello + sent[:1_000], *pieces(rng, sent[1_000:])])).messages
    # What breaks the rules takes along what came in the same segment before it: no message is another one for that.
    for other in (second, early):
        common = min(len(first), len(other))
        assert other[:common] == first[:common]


def any_json(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(8 if depth < 4 else 5)
    match kind:
        case 0:
            return rng.choice(("", "a", "\ud800", "tool", "x" * 300, "scripted"))
        case 1:
            return rng.choice((0, -1, 2**63, 1e308, 0.5))
        case 2:
            return rng.choice((True, False, None))
        case 3 | 4:
            return rng.choice(("start", "resume", "user", "0" * 32))
        case 5 | 6:
            return [any_json(rng, depth + 1) for _ in range(rng.choice((0, 1, 3, 40)))]
        case _:
            return {rng.choice(NAMES): any_json(rng, depth + 1) for _ in range(rng.choice((0, 2, 6)))}


def any_text_is_decoded_or_refused_within_its_size(rng: random.Random) -> None:
    value = {"type": "start", "message": "a", "preferences": any_json(rng), "tools": any_json(rng), "x": any_json(rng)}
    text = json.dumps(value)
    raw = mutated(rng, text.encode()) if rng.random() < 0.7 else text.encode()
    bounded(raw, lambda: decode(request.parse_json, raw))
    loose = raw.decode("utf-8", "replace")
    bounded(raw, lambda: decode(websocket.parse_frame, loose, websocket.JSON))


def any_msgpack_is_decoded_or_refused_within_its_size(rng: random.Random) -> None:
    packed: bytes = msgpack.packb(any_json(rng), unicode_errors="surrogatepass")
    head = rng.choice(LIES)
    parts = (b"\xc0", b"\xa1a", head, b"\x91", b"\x81")
    lies = b"".join(rng.choice(parts) for _ in range(rng.randrange(4_000)))
    raw = rng.choice((mutated(rng, packed), head * rng.randrange(1, 900) + packed, lies, packed + lies))
    bounded(raw, lambda: decode(websocket.parse_frame, raw, websocket.MSGPACK))


def decode(decoder: Callable[..., Any], *given: Any) -> None:
    try:
        decoder(*given)
    except (TokenrelayError, websocket.BadFrame):
        return


def bounded(raw: bytes, run: Callable[[], None]) -> None:
    """Time and memory in proportion to the input, with an allowance for what every call costs."""
    tracemalloc.start()
    began = time.process_time()
    try:
        run()
        took, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert took < 0.5 + SECONDS_A_BYTE * len(raw), f"{took:.3f} s for {len(raw)} bytes"
    assert peak < 1_000_000 + BYTES_A_BYTE * len(raw), f"{peak} bytes for {len(raw)}"


CASES: Final[dict[str, Callable[[random.Random], None]]] = {
    each.__name__: each
    for each in (
        valid_requests_arrive_as_they_are,
        any_bytes_mean_the_same_in_any_segments,
        any_frames_mean_the_same_in_any_segments,
        any_text_is_decoded_or_refused_within_its_size,
        any_msgpack_is_decoded_or_refused_within_its_size,
    )
}
