"""The Python client between its two transports: when it changes, and by whose hand; the cursor stays."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from tokenrelay_client import Client, Refused, Unreachable, retry
from tokenrelay_client.retry import Backoff, RetryPolicy, Wait
from tokenrelay_client.transport import Dropped, Said

from tests.clients.service import (
    COME_BACK,
    ID,
    OVER,
    RESTART,
    STARTED,
    Fate,
    Service,
    answer_of,
    event,
    play,
    says,
    some,
    streams,
    talks,
    told_all,
)

Heard = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_RETRY_S", 0.02)


def kinds(heard: Heard) -> list[str]:
    return [message["type"] for message in heard]


# -- the other way ---------------------------------------------------------------------------------------------------


def test_a_transport_that_breaks_hands_over_to_the_other_with_the_same_cursor() -> None:
    heard: Heard = []
    frames = told_all("a", "b", "c", "d")
    fates = [
        talks([*frames[:3], COME_BACK], close=RESTART, heard=heard),
        streams(event(3, token="b")),
        talks([STARTED, *frames[4:]], heard=heard),
    ]

    async def scene() -> None:
        async with Service(fates) as service, Client(service.url) as client:
            stream = client.chat("hello")
            await stream.completion()
            assert stream.text == "abcd"
            paths = [path for _, path, _ in service.asked]
            assert paths == ["/api/ws", f"/api/streams/{ID}", "/api/ws"]
            assert service.asked[1][2]["Last-Event-ID"] == "2"
            assert heard[1]["after"] == 3

    play(scene())


@pytest.mark.parametrize(
    "forbids",
    [
        says(403, "<html>no WebSockets here"),
        says(200, "<html>log in"),
        says(400, {"error": "this path speaks WebSocket; send an upgrade", "error_code": "INVALID_REQUEST"}),
    ],
)
def test_a_forbidden_socket_costs_no_wait_and_is_not_tried_by_the_next_stream(forbids: Fate) -> None:
    async def scene() -> None:
        fates = [forbids, streams(answer_of("a")), streams(answer_of("b"))]
        async with Service(fates) as service, Client(service.url, patience_s=0) as client:
            one = client.chat("hello")
            await one.completion()
            other = client.chat("hello")
            await other.completion()
            assert (one.text, other.text, one.transport) == ("a", "b", "sse")
            assert [path for _, path, _ in service.asked] == ["/api/ws", "/api/chat", "/api/chat"]

    play(scene())


@pytest.mark.parametrize("transport", ["websocket", "auto"])
def test_a_handshake_that_is_refused_says_why(transport: Any) -> None:
    no = says(401, {"error": "no valid key", "error_code": "UNAUTHORIZED", "request_id": "r"})

    async def scene() -> None:
        async with Service([no]) as service, Client(service.url, transport=transport) as client:
            with pytest.raises(Refused) as caught:
                await client.chat("hello").completion()
            assert (caught.value.code, str(caught.value)) == ("UNAUTHORIZED", "no valid key")
            assert caught.value.details["request_id"] == "r"

    play(scene())


@pytest.mark.parametrize(("first", "second"), [("sse", "websocket"), ("websocket", "sse")])
def test_a_transport_is_changed_by_hand_at_once_from_the_same_cursor(first: Any, second: Any) -> None:
    heard: Heard = []
    hold = asyncio.Event()
    frames = told_all("a", "b")

    async def held(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Stream-Id": ID})
        await response.prepare(request)
        await response.write(event(1) + event(2, token="a"))
        await hold.wait()
        return response

    begin: Fate = held if first == "sse" else talks(frames[:3], heard=heard)
    rest = streams(event(3, token="b") + event(4, done=True)) if second == "sse" else talks([STARTED, *frames[3:]])

    async def scene() -> None:
        async with Service([begin, rest]) as service, Client(service.url, transport=first, patience_s=0) as client:
            stream = client.chat("hello")
            await some(stream, 2)
            stream.use(first)  # is nothing new
            stream.use(second)
            assert (stream.state, stream.transport) == ("reconnecting", second)
            await stream.completion()
            assert (stream.text, len(service.asked)) == ("ab", 2)
            with pytest.raises(Refused, match="auto, websocket, sse"):
                stream.use("pigeon")  # type: ignore[arg-type]
            hold.set()
        if first == "websocket":
            assert heard[-1] == {"type": "detach", "stream_id": ID}

    play(scene())


def test_a_change_by_hand_ends_a_pause_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_RETRY_S", 100.0)

    async def gone(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async def scene() -> None:
        async with Service([gone, talks(told_all("a"))]) as service, Client(service.url, transport="sse") as client:
            stream = client.chat("hello")
            while not stream._may_hurry:
                await asyncio.sleep(0)
            stream.use("websocket")
            await stream.completion()
            assert stream.text == "a"

    play(scene())


def test_a_change_by_hand_does_not_end_one_that_the_server_asked_for() -> None:
    slow = says(429, {"error": "slow down", "error_code": "RATE_LIMIT", "retry_after": 60})

    async def scene() -> None:
        async with Service([slow]) as service, Client(service.url, transport="sse") as client:
            stream = client.chat("hello")
            while stream._connection is not None or not service.asked:
                await asyncio.sleep(0)
            stream.use("websocket")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(stream.completion(), 0.2)
            assert len(service.asked) == 1

    play(scene())


def test_no_server_is_said_in_the_end_over_either() -> None:
    async def scene() -> None:
        async with Service([says(500)]) as service:
            gone = service.url
        async with Client(gone, patience_s=0.3) as client:
            with pytest.raises(Unreachable):
                await client.chat("hello").completion()

    play(scene())


def test_an_end_that_is_known_is_no_answer() -> None:
    async def scene() -> None:
        async with Service([talks(OVER)]) as service, Client(service.url) as client:
            assert await client.resume(ID, 7).completion() is None

    play(scene())


# -- pure ------------------------------------------------------------------------------------------------------------


def test_the_other_transport_is_tried_at_once_and_only_once() -> None:
    facts = {"has_id": True, "is_cursor_ours": True}
    never = Dropped("refused")
    counting = RetryPolicy(Backoff(lambda: 0.0), 300, 300)
    waits = [counting.after(never, has_other=True, **facts) for _ in range(3)]
    assert waits[0] == Wait(0)
    assert all(wait.seconds > 0 for wait in waits[1:])
    for outcome in (never, Dropped("broke", was_open=True)):
        assert RetryPolicy(Backoff(lambda: 0.0), 300, 300).after(outcome, has_other=False, **facts).seconds > 0
    drained = Dropped("drain", after_s=0.4, was_open=True)
    assert RetryPolicy(Backoff(lambda: 0.0), 300, 300).after(drained, has_other=True, **facts) == Wait(
        0.4, is_firm=True
    )
    said = Said(Refused("UNAUTHORIZED", "no"), by_socket=True)
    assert RetryPolicy(Backoff(lambda: 0.0), 300, 300).after(said, has_other=True, **facts) == Wait(0)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x", "http://", "http://x:port", "//x"])
def test_an_address_that_is_none_is_said_at_once(url: str) -> None:
    with pytest.raises(Refused, match="http://"):
        Client(url)


def test_what_cannot_be_is_said_at_once() -> None:
    with pytest.raises(Refused, match="'pigeon'"):
        Client("http://127.0.0.1:9", transport="pigeon")  # type: ignore[arg-type]

    async def scene() -> None:
        async with Client("http://127.0.0.1:9") as client:
            with pytest.raises(TypeError):
                client.chat({"message": {1, 2}})
            with pytest.raises(ValueError, match="JSON"):
                client.chat({"message": "hi", "temperature": float("nan")})

    play(scene())
