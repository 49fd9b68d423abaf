"""What no library sends: requests that do not end, heads without measure, floods of frames. Others never notice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.fleet import Fleet, one_server
from tests.raw import Raw, body_of, frame, handshake
from tests.wire import Sse, Ws, call, text_of, words
from tokenrelay.protocol.wire.websocket import Close

READ_S = 2
HOST = "Host: 127.0.0.1\r\n"
TEXT, BINARY, CLOSE, PING, PONG, CONT = 1, 2, 8, 9, 10, 0


@pytest.fixture(scope="module")
def edge() -> Iterator[Fleet]:
    env = {"TOKENRELAY_READ_TIMEOUT_S": str(READ_S), "TOKENRELAY_MAX_BODY_BYTES": "65536"}
    with Fleet(edges=1, workers=1, env=env) as fleet:
        yield fleet


async def good_client(url: str) -> None:
    async with Sse.post(url, {"message": "a", "model": "scripted?tokens=20&interval_ms=1"}) as stream:
        assert text_of(await stream.take()) == words(20)
    async with Ws(url) as socket:
        await socket.say({"type": "ping", "ref": 1})
        assert await socket.hear() == {"type": "pong", "ref": 1}


# -- slow requests
# -------------------------------------------------------------------------------------------------------

POST = f"POST /api/chat HTTP/1.1\r\n{HOST}"
BEGUN: list[tuple[str, str, str]] = [
    # name, what is sent at once, what then comes again and again
    ("nothing at all", "", ""),
    ("a head by the byte", "GET /healthz HTTP/1.1\r\nX-A: ", "a"),
    ("a target by the byte", "GET /healthz?", "a"),
    ("empty lines", "", "\r\n"),
    ("headers by the line", f"GET /healthz HTTP/1.1\r\n{HOST}", "X-A: b\r\n"),
    ("a body by the byte", f"{POST}Content-Length: 5000\r\n\r\n", "a"),
    ("a body in chunks", f"{POST}Transfer-Encoding: chunked\r\n\r\n", "1\r\na\r\n"),
    ("a chunk's extension", f"{POST}Transfer-Encoding: chunked\r\n\r\n1;", "a"),
    ("trailers", f"{POST}Transfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n0\r\n", "X-A: b\r\n"),
    ("a body that is too large", f"{POST}Content-Length: 99999999\r\n\r\n", "a"),
    ("a body nobody reads", f"GET /healthz HTTP/1.1\r\n{HOST}Content-Length: 5000\r\n\r\n", "a"),
    ("a second request", f"GET /healthz HTTP/1.1\r\n{HOST}\r\nGET /healthz HTTP/1.1\r\nX-A: ", "a"),
    ("half a handshake", handshake()[:-2], "X-A: b\r\n"),
]


async def drip(url: str, begun: str, more: str, *, for_s: float = 30) -> float:
    """Seconds until the server closes."""
    began = time.monotonic()
    async with Raw(url) as peer:
        with contextlib.suppress(ConnectionError):
            await peer.say(begun)
            while time.monotonic() - began < for_s:
                try:
                    async with asyncio.timeout(0.2):
                        if not await peer.reader.read(65_536):
                            break
                except TimeoutError:
                    await peer.say(more)
    return time.monotonic() - began


def test_a_request_that_does_not_end_is_given_up_and_500_of_them_stop_nobody(edge: Fleet) -> None:
    async def scene() -> None:
        url = edge.urls[0]
        names = [name for name, _, _ in BEGUN]
        crowd = [asyncio.create_task(drip(url, begun, more)) for _ in range(40) for _, begun, more in BEGUN]
        await asyncio.sleep(0.5)
        for _ in range(3):
            await good_client(url)
        took = await asyncio.gather(*crowd)
        # 2 s of grace for a body, which gets an answer first; the rest is the pace of a shared machine.
        late = {names[number % len(names)]: seconds for number, seconds in enumerate(took) if seconds > READ_S + 15}
        assert len(took) >= 500
        assert not late
        await good_client(url)

    asyncio.run(scene())


def test_a_body_that_does_not_come_is_answered(edge: Fleet) -> None:
    async def scene() -> None:
        async with Raw(edge.urls[0]) as peer:
            await peer.say(f"{POST}Content-Length: 50\r\n\r\n{{")
            answer = await peer.all()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert body_of(answer)["error"] == "the body did not arrive in time"

    asyncio.run(scene())


# -- heads
# ---------------------------------------------------------------------------------------------------------------

GET = f"GET /healthz HTTP/1.1\r\n{HOST}"
HEADS: list[tuple[str, str, int, str]] = [
    ("a long target", f"GET /healthz?{'a' * 9000} HTTP/1.1\r\n{HOST}\r\n", 413, "PAYLOAD_TOO_LARGE"),
    ("a long header", f"{GET}X-A: {'a' * 9000}\r\n\r\n", 413, "PAYLOAD_TOO_LARGE"),
    ("many headers", GET + "X-A: b\r\n" * 200 + "\r\n", 413, "PAYLOAD_TOO_LARGE"),
    ("much of it", GET + f"X-A: {'a' * 7000}\r\n" * 6 + "\r\n", 413, "PAYLOAD_TOO_LARGE"),
    ("a header without end", f"{GET}X-A: {'a' * 100_000}", 413, "PAYLOAD_TOO_LARGE"),
    ("a handshake with a long header", handshake()[:-2] + f"X-A: {'a' * 9000}\r\n\r\n", 413, "PAYLOAD_TOO_LARGE"),
    ("a handshake with many headers", handshake()[:-2] + "X-A: b\r\n" * 200 + "\r\n", 413, "PAYLOAD_TOO_LARGE"),
    ("a handshake with a body", handshake()[:-2] + "Content-Length: 5\r\n\r\nhello", 400, "INVALID_REQUEST"),
    ("a handshake by POST", handshake(method="POST"), 405, "METHOD_NOT_ALLOWED"),
    ("a handshake of another version", handshake().replace(": 13", ": 8"), 426, "UPGRADE_REQUIRED"),
    ("a handshake without a key", handshake().replace("WebSocket-Key", "X"), 400, "INVALID_REQUEST"),
    ("a handshake to nowhere", handshake().replace("/api/ws", "/api/%0d%0a"), 404, "NOT_FOUND"),
    ("a handshake to a call", handshake().replace("/api/ws", "/api/chat"), 404, "NOT_FOUND"),
    ("a target that is not ASCII", f"GET /\xe9 HTTP/1.1\r\n{HOST}\r\n", 400, "INVALID_REQUEST"),
    ("NUL in a header", f"{GET}X-A: a\0b\r\n\r\n", 400, "INVALID_REQUEST"),
    ("a bare CR in a header", f"{GET}X-A: a\rX-B: b\r\n\r\n", 400, "INVALID_REQUEST"),
    ("a folded header", f"{GET}X-A: a\r\n b\r\n\r\n", 400, "INVALID_REQUEST"),
    ("two lengths", f"{POST}Content-Length: 1\r\nContent-Length: 2\r\n\r\n{{}}", 400, "INVALID_REQUEST"),
    ("length and chunks", f"{POST}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "INVALID_REQUEST"),
    ("a length beyond numbers", f"{POST}Content-Length: {'9' * 30}\r\n\r\n", 400, "INVALID_REQUEST"),
    ("TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "INVALID_REQUEST"),
    ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "INVALID_REQUEST"),
    ("an origin that is no URL", f"{GET}Connection: close\r\nOrigin: http://[::1\r\n\r\n", 403, "FORBIDDEN"),
]


@pytest.mark.parametrize(("sent", "status", "code"), [row[1:] for row in HEADS], ids=[row[0] for row in HEADS])
def test_a_head_that_cannot_be_taken_has_its_row(edge: Fleet, sent: str, status: int, code: str) -> None:
    async def scene() -> None:
        async with Raw(edge.urls[0]) as peer:
            await peer.say(sent)
            answer = await peer.all()
        assert answer.split(b" ", 2)[1] == str(status).encode(), answer
        said = body_of(answer)
        assert said["error_code"] == code
        assert f"x-request-id: {said['request_id']}".encode() in answer.lower()

    asyncio.run(scene())


def test_pipelining_has_an_end(edge: Fleet) -> None:
    async def scene() -> None:
        memory = psutil.Process(edge.edges[0].pid).memory_info
        async with Raw(edge.urls[0]) as peer:
            before = memory().rss
            with contextlib.suppress(ConnectionError):
                for _ in range(400):
                    await peer.say(f"GET /metrics HTTP/1.1\r\n{HOST}\r\n" * 1000)
            await peer.closed()
        assert memory().rss - before < 20_000_000
        await good_client(edge.urls[0])

    asyncio.run(scene())


# -- frames
# --------------------------------------------------------------------------------------------------------------

HELLO = b'{"type":"ping"}'
FRAMES: list[tuple[str, bytes, Close | None]] = [
    ("not masked", frame(TEXT, HELLO, masked=False), Close.PROTOCOL),
    ("reserved bits", bytes([0xF1, 0x80]) + b"\0\0\0\0", Close.PROTOCOL),
    ("unknown opcode", frame(5, HELLO), Close.PROTOCOL),
    ("a fragment of nothing", frame(CONT, HELLO), Close.PROTOCOL),
    ("a message inside another", frame(TEXT, b"[", fin=False) + frame(TEXT, HELLO), Close.PROTOCOL),
    ("a control frame in pieces", frame(PING, b"", fin=False), Close.PROTOCOL),
    ("a control frame that is large", frame(PING, b"a" * 200), Close.PROTOCOL),
    ("a close that says half a code", frame(CLOSE, b"\x03"), Close.PROTOCOL),
    ("a huge frame, announced", frame(TEXT, b"", declared=2**62), Close.TOO_BIG),
    ("a huge message in pieces", frame(TEXT, b"a" * 60_000, fin=False) + frame(CONT, b"a" * 60_000), Close.TOO_BIG),
    ("text that is none", frame(TEXT, b"\xff\xfe"), Close.INVALID_TEXT),
    ("binary where text was agreed", frame(BINARY, b"\x80"), Close.UNSUPPORTED),
    ("fragments of nothing", frame(TEXT, b"", fin=False) + frame(CONT, b"", fin=False) * 2000, Close.POLICY),
    ("fragments of one byte", frame(TEXT, b"[", fin=False) + frame(CONT, b" ", fin=False) * 2000, Close.POLICY),
    ("pings", frame(PING, b"a" * 100) * 2000, Close.POLICY),
    ("pongs nobody asked for", frame(PONG, b"a") * 2000, Close.POLICY),
    ("empty messages", frame(TEXT) * 20_000, Close.POLICY),
    ("more messages than may be", frame(TEXT, HELLO) * 3000, Close.POLICY),
    ("large messages", frame(TEXT, b" " * 60_000) * 1000, Close.POLICY),
]


@pytest.mark.parametrize(("sent", "code"), [row[1:] for row in FRAMES], ids=[row[0] for row in FRAMES])
def test_frames_that_cannot_be_taken_close_the_socket_with_their_code(edge: Fleet, sent: bytes, code: Close) -> None:
    async def scene() -> None:
        async with Ws(edge.urls[0]) as other, Raw(edge.urls[0]) as peer:
            assert b" 101 " in await peer.upgrade()
            sending = asyncio.create_task(peer.say(sent))
            assert await peer.close_code() == code
            sending.cancel()
            await other.say({"type": "ping", "ref": 1})
            assert await other.hear() == {"type": "pong", "ref": 1}

    asyncio.run(scene())


@pytest.mark.parametrize("piece", [b"", b" "], ids=["empty", "one byte"])
def test_fragments_are_counted_not_only_timed(edge: Fleet, piece: bytes) -> None:
    """Each costs memory beyond what it holds, and empty ones never reach the bound of a message."""

    async def scene() -> None:
        async with Raw(edge.urls[0]) as peer:
            await peer.upgrade()
            await peer.say(frame(TEXT, b"[", fin=False) + frame(CONT, piece, fin=False) * 1100)
            opcode, said = await peer.frame()
            assert (opcode, said[2:].decode()) == (CLOSE, "a message has at most 1024 fragments")

    asyncio.run(scene())


def test_text_is_refused_where_binary_was_agreed(edge: Fleet) -> None:
    async def scene() -> None:
        async with Raw(edge.urls[0]) as peer:
            await peer.upgrade("tokenrelay.v1.msgpack")
            await peer.say(frame(TEXT, HELLO))
            assert await peer.close_code() == Close.UNSUPPORTED

    asyncio.run(scene())


def test_a_message_whose_rest_does_not_come_is_given_up_though_the_socket_lives(edge: Fleet) -> None:
    async def scene() -> None:
        async with Raw(edge.urls[0]) as peer:
            await peer.upgrade()
            await peer.say(frame(TEXT, b"[", fin=False))

            async def go_on() -> None:
                while True:
                    await asyncio.sleep(0.2)
                    await peer.say(frame(CONT, b" ", fin=False))

            going = asyncio.create_task(go_on())
            assert await peer.close_code() == Close.POLICY
            going.cancel()

    asyncio.run(scene())


def test_pings_are_answered_and_a_message_in_fragments_is_read(edge: Fleet) -> None:
    async def scene() -> None:
        async with Raw(edge.urls[0]) as peer:
            await peer.upgrade()
            await peer.say(frame(PING, b"hi"))
            assert await peer.frame() == (PONG, b"hi")
            pieces = b"".join(frame(CONT, HELLO[at : at + 1], fin=False) for at in range(1, len(HELLO)))
            await peer.say(frame(TEXT, HELLO[:1], fin=False) + pieces + frame(PING, b"x") + frame(CONT))
            assert await peer.frame() == (PONG, b"x")
            opcode, said = await peer.frame()
            assert (opcode, json.loads(said)) == (TEXT, {"type": "pong", "ref": None})

    asyncio.run(scene())


def test_a_socket_that_says_too_much_is_told_before_it_is_closed(edge: Fleet) -> None:
    async def scene() -> None:
        async with Ws(edge.urls[0]) as socket:
            for _ in range(3):
                await socket.say(*({"type": "ping", "ref": number} for number in range(200)))
            answers = [await socket.hear() for _ in range(600)]
            assert [answer["type"] for answer in answers[:512]] == ["pong"] * 512
            refused = [answer for answer in answers if answer["type"] == "error"]
            assert refused
            assert refused[-1].keys() >= {"retry_after", "limit", "remaining", "reset"}
            assert (refused[-1]["error_code"], refused[-1]["ref"]) == ("RATE_LIMIT", 199)
            await asyncio.sleep(refused[-1]["retry_after"] + 1)
            await socket.say({"type": "ping", "ref": "again"})
            assert await socket.hear() == {"type": "pong", "ref": "again"}

    asyncio.run(scene())


def test_pings_of_one_who_does_not_read_cost_no_memory(edge: Fleet) -> None:
    async def scene() -> None:
        memory = psutil.Process(edge.edges[0].pid).memory_info
        before = memory().rss
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(20):
                peer = await stack.enter_async_context(Raw(edge.urls[0]))
                await peer.upgrade()
                peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
                with contextlib.suppress(ConnectionError, TimeoutError):
                    async with asyncio.timeout(2):
                        await peer.say(frame(PING, b"a" * 125) * 20_000)
            await good_client(edge.urls[0])
            assert memory().rss - before < 20_000_000

    asyncio.run(scene())


@one_server("an edge's connections to a cluster are over TCP too")
def test_after_all_that_nothing_is_left_and_the_log_is_short(edge: Fleet) -> None:
    async def scene() -> None:
        process = psutil.Process(edge.edges[0].pid)
        async with asyncio.timeout(20):
            while len(process.net_connections("tcp")) > 1:  # its own, that listens
                await asyncio.sleep(0.1)
        assert edge.edges[0].poll() is None
        assert (await call("GET", f"{edge.urls[0]}/readyz"))[0] == 200
        assert "Traceback" not in edge.logs()

    asyncio.run(scene())
