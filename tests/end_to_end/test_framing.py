"""Where a request ends: two edges with keys, directly and behind the nginx that is shipped."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator

import pytest

from tests.fleet import Fleet
from tests.needs import require
from tests.raw import Raw, body_of, handshake
from tests.recipes.nginx import Nginx, find_nginx
from tests.wire import Sse, call, start, text_of, whole, words

ALICE = {"Authorization": "Bearer alice-secret"}
BOB = {"Authorization": "Bearer bob-secret"}
OFFER = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
PROMISED = (b"x-content-type-options: nosniff", b"referrer-policy: no-referrer", b"x-frame-options: deny")
MODEL = "scripted?tokens=2&interval_ms=0"


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    env = {"TOKENRELAY_API_KEYS": "alice:alice-secret,bob:bob-secret", "TOKENRELAY_MAX_BODY_BYTES": "4096"}
    with Fleet(edges=2, workers=1, env=env) as started:
        yield started


@pytest.fixture(scope="module", params=["an edge", "nginx"])
def url(request: pytest.FixtureRequest, fleet: Fleet) -> Iterator[str]:
    if request.param == "an edge":
        yield fleet.urls[0]
        return
    require(find_nginx(), "nginx (Debian: nginx-light)")
    with Nginx(fleet.urls) as proxy:
        yield proxy.url


def head(method: str, path: str, more: str = "", version: str = "1.1") -> str:
    key = ALICE["Authorization"]
    return f"{method} {path} HTTP/{version}\r\nHost: 127.0.0.1\r\nAuthorization: {key}\r\n{more}"


def post(path: str, body: bytes, more: str = "", version: str = "1.1") -> bytes:
    return head("POST", path, f"{more}Content-Length: {len(body)}\r\n\r\n", version).encode() + body


async def answer(peer: Raw) -> tuple[int, bytes]:
    """The next whole answer: its status and its body, by its length or in chunks."""
    said = await peer.head()
    lines = dict(line.lower().split(b": ", 1) for line in said.split(b"\r\n")[1:-2])
    status = int(said.split(b" ")[1])
    if b"content-length" in lines:
        return status, await peer.reader.readexactly(int(lines[b"content-length"]))
    body = b""
    while size := int(await peer.reader.readline(), 16):
        body += await peer.reader.readexactly(size)
        await peer.reader.readline()
    await peer.reader.readline()
    return status, body


@pytest.mark.parametrize("pause_s", [0.0, 0.2], ids=["at once", "in a later segment"])
def test_h2c_is_ignored_and_neither_its_body_nor_the_next_request_is_lost(url: str, pause_s: float) -> None:
    async def scene() -> None:
        ask = post("/api/chat", json.dumps({"message": "a", "model": MODEL}).encode(), OFFER)
        at = ask.index(b"\r\n\r\n") + 4
        async with Raw(url) as peer:
            await peer.say(ask[:at])
            await asyncio.sleep(pause_s)
            await peer.say(ask[at:])
            status, said = await answer(peer)
            assert (status, json.loads(said)["response"]) == (200, words(2))
            await peer.say(head("GET", "/api/streams", "\r\n"))
            assert (await answer(peer))[0] == 200

    asyncio.run(scene())


def test_what_looks_like_a_request_in_a_body_reaches_nobody(url: str, fleet: Fleet) -> None:
    """CWE-444: the inner request would run with whatever credentials came next on nginx's connection to the edge."""

    async def scene() -> None:
        inner = b"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Rest: "
        for _ in range(5):
            async with Raw(url) as peer:
                asked = f"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\n{OFFER}"
                await peer.say(f"{asked}Content-Length: {len(inner)}\r\n\r\n")
                await asyncio.sleep(0.05)
                with contextlib.suppress(ConnectionError):
                    await peer.say(inner)
                assert (await answer(peer))[0] == 401
            statuses = [(await call("GET", f"{url}/api/models", headers=BOB))[0] for _ in range(4)]
            assert statuses == [200] * 4
        _, listing, _ = await call("GET", f"{fleet.urls[0]}/api/streams", headers=BOB)
        assert listing["streams"] == []

    asyncio.run(scene())


def test_a_ticket_asked_for_one_stream_reads_one_stream_whatever_was_offered(url: str) -> None:
    async def scene() -> None:
        mine, other = [await start(url, MODEL, ALICE) for _ in range(2)]
        for stream_id in (mine, other):
            await whole(url, stream_id, headers=ALICE)
        ask = post("/api/tickets", json.dumps({"stream_id": mine}).encode(), OFFER)
        at = ask.index(b"\r\n\r\n") + 4
        async with Raw(url) as peer:
            await peer.say(ask[:at])
            await asyncio.sleep(0.1)
            await peer.say(ask[at:])
            status, said = await answer(peer)
        ticket = json.loads(said)["ticket"]
        assert status == 200
        assert (await call("GET", f"{url}/api/streams/{other}?ticket={ticket}"))[0] == 403
        async with Sse("GET", f"{url}/api/streams/{mine}?ticket={ticket}", {}) as stream:
            assert text_of(await stream.take()) == words(2)

    asyncio.run(scene())


@pytest.mark.parametrize("is_streamed", [True, False])
def test_http_1_0_gets_an_answer_without_chunks(fleet: Fleet, is_streamed: bool) -> None:
    async def scene() -> None:
        body = json.dumps({"message": "a", "model": MODEL, "stream": is_streamed}).encode()
        async with Raw(fleet.urls[0]) as peer:
            await peer.say(post("/api/chat", body, version="1.0"))
            said = await peer.all()
        assert said.startswith(b"HTTP/1.1 200 ")
        assert b"transfer-encoding" not in said.lower()
        assert b"w1 " in said
        assert (b'"done":true' in said) is is_streamed

    asyncio.run(scene())


REFUSED = [
    ("two hosts", head("GET", "/api/models", "Host: 127.0.0.1\r\n\r\n"), 400),
    ("no host", "GET /api/models HTTP/1.1\r\n\r\n", 400),
    ("a host that is none", "GET /api/models HTTP/1.1\r\nHost: a b/c\r\n\r\n", 400),
    ("HTTP/0.9", "GET /\r\n", 400),
    ("another version of WebSocket", handshake().replace("Version: 13", "Version: 8"), 426),
    ("no version of WebSocket", handshake().replace("Sec-WebSocket-Version: 13\r\n", ""), 426),
    ("no key of WebSocket", handshake().replace("Sec-WebSocket-Key", "X-Key"), 400),
    ("WebSocket by POST", handshake(method="POST"), 405),
    ("an encoding", head("POST", "/api/chat", "Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nab"), 415),
]


@pytest.mark.parametrize(("sent", "status"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_refusal_before_any_handler_has_the_headers_of_all_answers(fleet: Fleet, sent: str, status: int) -> None:
    async def scene() -> None:
        async with Raw(fleet.urls[0]) as peer:
            await peer.say(sent)
            said = (await peer.head()).lower()
        assert int(said.split(b" ")[1]) == status
        assert all(line in said for line in PROMISED)
        if status == 426:
            assert b"upgrade: websocket" in said
            assert b"sec-websocket-version: 13" in said
        if status == 415:
            assert b"accept-encoding: identity" in said

    asyncio.run(scene())


def test_strangers_and_one_greedy_caller_leave_room_for_the_others(fleet: Fleet) -> None:
    async def scene() -> None:
        begun = f"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4000\r\n\r\n{'a' * 3000}"
        greedy = begun.replace("Host:", f"Authorization: {BOB['Authorization']}\r\nHost:", 1)
        async with contextlib.AsyncExitStack() as stack:
            strangers = [await stack.enter_async_context(Raw(fleet.urls[0])) for _ in range(80)]
            for peer in strangers:
                await peer.say(begun)
            for peer in strangers:
                assert (await peer.head()).startswith(b"HTTP/1.1 401 ")
            for _ in range(80):
                await (await stack.enter_async_context(Raw(fleet.urls[0]))).say(greedy)
            await asyncio.sleep(0.5)
            status, said, _ = await call("POST", f"{fleet.urls[0]}/api/chat", {"message": "a", "model": MODEL}, ALICE)
            assert (status, said.get("error_code")) == (200, None)

    asyncio.run(scene())


def test_an_empty_last_event_id_is_none(fleet: Fleet) -> None:
    async def scene() -> None:
        url = fleet.urls[0]
        stream_id = await start(url, "scripted?tokens=5&interval_ms=0", ALICE)
        await whole(url, stream_id, headers=ALICE)
        path = f"{url}/api/streams/{stream_id}?after=3&replay=exact"
        async with Sse("GET", path, {**ALICE, "Last-Event-ID": ""}) as stream:
            assert next(entry_id for entry_id, _ in await stream.take() if entry_id is not None) == 4

    asyncio.run(scene())


def test_a_client_that_closes_its_sending_half_counts_as_gone(fleet: Fleet) -> None:
    async def scene() -> None:
        body = json.dumps({"message": "a", "model": "scripted?tokens=200&interval_ms=20", "stream": True}).encode()
        async with Raw(fleet.urls[0]) as peer:
            await peer.say(post("/api/chat", body))
            peer.writer.write_eof()
            said = await peer.all()
        assert b'"done":true' not in said

    asyncio.run(scene())


def test_a_page_may_send_cache_control(fleet: Fleet) -> None:
    async def scene() -> None:
        origin = {"Origin": fleet.urls[0], "Access-Control-Request-Method": "GET"}
        asking = {**origin, "Access-Control-Request-Headers": "cache-control,last-event-id"}
        status, _, heads = await call("OPTIONS", f"{fleet.urls[0]}/api/streams/{'0' * 32}", headers=asking)
        assert status == 204
        assert "Cache-Control" in heads["Access-Control-Allow-Headers"]

    asyncio.run(scene())


def test_a_refused_body_is_said_in_json(fleet: Fleet) -> None:
    async def scene() -> None:
        async with Raw(fleet.urls[0]) as peer:
            await peer.say(head("POST", "/api/chat", "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"))
            said = await peer.all()
        assert said.startswith(b"HTTP/1.1 400 ")
        assert body_of(said)["error_code"] == "INVALID_REQUEST"

    asyncio.run(scene())
