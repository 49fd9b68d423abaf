"""Every row of the error table, provoked for real over every transport. A row without a provocation is a failure here.

The transports: plain HTTP (an answer as JSON), SSE (`stream: true`, or an EventSource's GET), WebSocket.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, TypeAlias

import aiohttp
import msgspec
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.fleet import Fleet
from tests.wire import Sse, Ws, call, start, whole
from tokenrelay.protocol.errors import ROWS, TABLE, Row
from tokenrelay.protocol.store import keys

CHAT: Final = "/api/chat"
ALICE: Final = {"Authorization": "Bearer alice-secret"}
EVENTS: Final = {"Accept": "text/event-stream"}
ASK: Final = {"message": "a", "model": "scripted?tokens=2&interval_ms=0"}
UNKNOWN: Final = "0" * 32


class Told(msgspec.Struct):
    """What a client was told: the object, with the status and headers of the answer it came in; for a message or an
    event of a stream that goes well so far these are None."""

    data: dict[str, Any]
    status: int | None = None
    headers: Any = None
    close_code: int | None = None
    media_type: str = "application/json"


Provocation: TypeAlias = Callable[[Fleet], Awaitable[Told]]


class NoSuch(msgspec.Struct, frozen=True):
    """Why a row cannot be met over a transport."""

    reason: str


# -- how one asks over each transport
# -------------------------------------------------------------------------------------------


def http(method: str, path: str, body: Any = None, **headers: str) -> Provocation:
    async def ask(fleet: Fleet) -> Told:
        given = {**ALICE, **{name.replace("_", "-"): value for name, value in headers.items()}}
        status, data, heads = await call(method, fleet.urls[0] + path, body, given)
        return Told(data, status, heads)

    return ask


def sse(body: Any = ASK, *, method: str = "POST", path: str = CHAT, **headers: str) -> Provocation:
    """The last event of the response, or its JSON. A body of bytes is sent as it is."""

    async def ask(fleet: Fleet) -> Told:
        given = {**ALICE, **EVENTS, **{name.replace("_", "-"): value for name, value in headers.items()}}
        sent = body if isinstance(body, bytes) else json.dumps({**body, "stream": True}).encode()
        told = await sse_answer(method, fleet.urls[0] + path, sent if method == "POST" else None, given)
        # An EventSource looks at the status only; who asked for events in a body reads events.
        assert told.media_type == ("text/event-stream" if method == "POST" else "application/json")
        return told

    return ask


async def sse_answer(method: str, url: str, sent: bytes | None, headers: dict[str, str]) -> Told:
    timeout = aiohttp.ClientTimeout(total=30)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.request(method, url, data=sent, headers=headers) as response,
    ):
        raw = await response.read()
        kind = response.headers["Content-Type"]
        data = json.loads(raw.rstrip().rpartition(b"data: ")[2])
        in_stream = response.status == 200
        return Told(data, None if in_stream else response.status, response.headers, media_type=kind)


def ws(*messages: Any, headers: dict[str, str] | None = None) -> Provocation:
    """The first error that is answered, or the error event of the stream that was started."""

    async def ask(fleet: Fleet) -> Told:
        async with Ws(fleet.urls[0], headers=ALICE if headers is None else headers) as socket:
            for message in messages:
                await socket.connection.send(message if isinstance(message, str) else json.dumps(message))
            return Told(await ws_error(socket))

    return ask


async def ws_error(socket: Ws) -> dict[str, Any]:
    while True:
        message = await socket.hear()
        data = message.get("data", message)
        if "error_code" in data:
            return dict(data)


def ws_refused(**headers: str) -> Provocation:
    async def ask(fleet: Fleet) -> Told:
        with pytest.raises(InvalidStatus) as refused:
            async with Ws(fleet.urls[0], headers=headers):
                pass
        response = refused.value.response
        return Told(json.loads(response.body), response.status_code, response.headers)

    return ask


def ws_closed(message: str, code: str) -> Provocation:
    async def ask(fleet: Fleet) -> Told:
        async with Ws(fleet.urls[0], headers=ALICE) as socket:
            await socket.connection.send(message)
            with pytest.raises(ConnectionClosed) as closed:
                await socket.hear()
        assert closed.value.rcvd is not None
        return Told({"error_code": code}, close_code=closed.value.rcvd.code)

    return ask


def of_stream(make: Callable[[str], Provocation], *, expired: bool = False) -> Provocation:
    """About a stream that has ended."""

    async def ask(fleet: Fleet) -> Told:
        stream_id = await ended(fleet)
        if expired:
            expire(fleet, stream_id)
        return await make(stream_id)(fleet)

    return ask


def repeated(*, expired: bool = False, **headers: str) -> Provocation:
    """`stream: true` again, with the Idempotency-Key of a stream that has ended."""

    async def ask(fleet: Fleet) -> Told:
        name = f"again-{expired}-{headers}"
        stream_id = await ended(fleet, {"Idempotency-Key": name})
        if expired:
            expire(fleet, stream_id)
        return await sse(Idempotency_Key=name, **headers)(fleet)

    return ask


async def ended(fleet: Fleet, headers: dict[str, str] | None = None) -> str:
    async with Sse.post(fleet.urls[0], ASK, {**ALICE, **(headers or {})}) as stream:
        await stream.take()
        return stream.stream_id


def expire(fleet: Fleet, stream_id: str) -> None:
    """What its time to live does an hour later."""
    fleet.redis().delete(keys.log(stream_id))


def spoiled_key(make: Callable[[str], Provocation]) -> Provocation:
    """With an Idempotency-Key whose place in Redis is taken by something else."""

    async def ask(fleet: Fleet) -> Told:
        name = f"spoiled-{id(make)}"
        fleet.redis().set(fleet.names.idempotency("alice", name), "x")
        return await make(name)(fleet)

    return ask


def at_once(make: Callable[[str], Provocation]) -> Provocation:
    """While the key has as many streams under way as it may."""

    async def ask(fleet: Fleet) -> Told:
        url = fleet.urls[0]
        held = [await start(url, "scripted?tokens=1&stall_after=0", ALICE) for _ in range(8)]
        try:
            return await make("")(fleet)
        finally:
            for stream_id in held:
                await call("DELETE", f"{url}/api/streams/{stream_id}", headers=ALICE)
                await whole(url, stream_id, headers=ALICE)

    return ask


def start_ws(model: str, **more: Any) -> Provocation:
    return ws({"type": "start", "ref": "a", "message": "a", "model": model, **more})


EVIL: Final = "https://evil.example"
FAILING: Final = "scripted?tokens=3&interval_ms=0&fail_after=1"
LONG: Final = b'{"message":"' + b"a" * 9000 + b'"}'

# row: (plain HTTP, SSE, WebSocket) at a fleet with keys and a worker. Those that need a fleet of their own are below.
PROVOKED: Final[dict[str, tuple[Provocation | NoSuch, Provocation | NoSuch, Provocation | NoSuch]]] = {
    "INVALID_REQUEST": (http("POST", CHAT, b"{"), sse(b"{"), ws("{nonsense")),
    "INVALID_CURSOR": (
        of_stream(lambda stream_id: http("GET", f"/api/streams/{stream_id}?after=x")),
        repeated(Last_Event_ID="x"),
        ws({"type": "resume", "stream_id": UNKNOWN, "after": "x"}),
    ),
    "UNAUTHORIZED": (
        http("POST", CHAT, ASK, Authorization="Bearer wrong"),
        sse(Authorization="Bearer wrong"),
        ws_refused(Authorization="Bearer wrong"),
    ),
    "FORBIDDEN": (http("POST", CHAT, ASK, Origin=EVIL), sse(Origin=EVIL), ws_refused(**ALICE, Origin=EVIL)),
    "NOT_FOUND": (
        http("DELETE", f"/api/streams/{UNKNOWN}"),
        sse(method="GET", path=f"/api/streams/{UNKNOWN}"),
        ws({"type": "resume", "stream_id": UNKNOWN}),
    ),
    "METHOD_NOT_ALLOWED": (
        http("PUT", CHAT),
        sse(method="PUT", path=f"/api/streams/{UNKNOWN}"),
        NoSuch("a message has a type in place of a method; an unknown one is VALIDATION_ERROR"),
    ),
    "CURSOR_AHEAD": (
        of_stream(lambda stream_id: http("GET", f"/api/streams/{stream_id}?after=99")),
        repeated(Last_Event_ID="99"),
        of_stream(lambda stream_id: ws({"type": "resume", "stream_id": stream_id, "after": 99})),
    ),
    "STREAM_EXPIRED": (
        of_stream(lambda stream_id: http("GET", f"/api/streams/{stream_id}"), expired=True),
        repeated(expired=True),
        of_stream(lambda stream_id: ws({"type": "resume", "stream_id": stream_id}), expired=True),
    ),
    "PAYLOAD_TOO_LARGE": (http("POST", CHAT, LONG), sse(LONG), ws_closed(LONG.decode(), "PAYLOAD_TOO_LARGE")),
    "UNSUPPORTED_MEDIA_TYPE": (
        http("POST", CHAT, ASK, Content_Encoding="gzip"),
        sse(Content_Encoding="gzip", Accept="text/event-stream"),
        NoSuch("a frame has no encoding but the one that was agreed"),
    ),
    "VALIDATION_ERROR": (
        http("POST", CHAT, {**ASK, "top_p": 7}),
        sse({**ASK, "top_p": 7}),
        start_ws("scripted", top_p=7),
    ),
    "UPGRADE_REQUIRED": (
        http("GET", "/api/ws", Connection="Upgrade", Upgrade="websocket", Sec_WebSocket_Version="8"),
        NoSuch("a handshake is answered with JSON"),
        NoSuch("there is no socket"),
    ),
    "RATE_LIMIT": (
        at_once(lambda _: http("POST", CHAT, ASK)),
        at_once(lambda _: sse()),
        at_once(lambda _: start_ws("scripted")),
    ),
    "INTERNAL_ERROR": (
        spoiled_key(lambda name: http("POST", CHAT, ASK, Idempotency_Key=name)),
        spoiled_key(lambda name: sse(Idempotency_Key=name)),
        spoiled_key(lambda name: start_ws("scripted", idempotency_key=name)),
    ),
    "PROVIDER_ERROR": (
        http("POST", CHAT, {"message": "a", "model": FAILING}),
        sse({"message": "a", "model": FAILING}),
        start_ws(FAILING),
    ),
    "SERVICE_UNAVAILABLE": (
        http("POST", CHAT, {"message": "a", "model": "claude"}),
        sse({"message": "a", "model": "claude"}),
        start_ws("claude"),
    ),
}  # fmt: skip
ELSEWHERE: Final = {"WORKER_LOST", "OVERLOADED", "TIMEOUT"}
TRANSPORTS: Final = ("http", "sse", "ws")

FIELDS: Final[dict[str, set[str]]] = {
    "INVALID_CURSOR": {"field"}, "CURSOR_AHEAD": {"last_event_id"}, "PAYLOAD_TOO_LARGE": {"max_bytes"},
    "VALIDATION_ERROR": {"field", "issue"}, "RATE_LIMIT": {"retry_after", "limit", "remaining", "reset"},
    "OVERLOADED": {"retry_after"}, "SERVICE_UNAVAILABLE": {"field"},
}  # fmt: skip
"""Beside `error`, `error_code` and, of an answer, `request_id`."""

HEADERS: Final[dict[str, set[str]]] = {
    "UNAUTHORIZED": {"WWW-Authenticate"}, "UNSUPPORTED_MEDIA_TYPE": {"Accept-Encoding"},
    "UPGRADE_REQUIRED": {"Upgrade", "Sec-WebSocket-Version"}, "METHOD_NOT_ALLOWED": {"Allow"},
    "OVERLOADED": {"Retry-After"},
    "RATE_LIMIT": {"Retry-After", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"},
}  # fmt: skip


def check(told: Told, row: Row) -> None:
    """What the table and the wire text promise of this row."""
    data = told.data
    assert data["error_code"] == row.code, data
    if told.close_code is not None:  # the socket is gone: its code is all there is
        assert told.close_code == row.close_code
        return
    assert data["error"]
    assert FIELDS.get(row.code, set()) <= data.keys(), data
    if told.status is None:  # a message or an event
        assert isinstance(data["retryable"], bool)
        assert data.get("type") == "error" or (data["token"], data["done"]) == ("", True)
        return
    assert told.status == row.status
    assert data["request_id"] == told.headers["X-Request-Id"]
    assert {name for name in HEADERS.get(row.code, set()) if name not in told.headers} == set()
    if told.media_type == "text/event-stream":
        assert (data["token"], data["done"], data["retryable"]) == ("", True, row.retryable)


@pytest.fixture(scope="module")
def guarded() -> Iterator[Fleet]:
    env = {
        "TOKENRELAY_API_KEYS": "alice:alice-secret",
        "TOKENRELAY_MAX_BODY_BYTES": "8192",
        "TOKENRELAY_KEY_CONCURRENCY": "8",
    }
    with Fleet(edges=1, workers=1, env=env) as fleet:
        yield fleet


def test_every_row_is_provoked_here() -> None:
    assert PROVOKED.keys() | ELSEWHERE == {row.code for row in ROWS}


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("code", PROVOKED)
def test_a_row_is_met_as_the_table_says(guarded: Fleet, code: str, transport: str) -> None:
    provocation = PROVOKED[code][TRANSPORTS.index(transport)]
    if isinstance(provocation, NoSuch):
        assert provocation.reason
        return

    async def scene() -> Told:
        return await provocation(guarded)

    check(asyncio.run(scene()), TABLE[code])


def at_all_doors(fleet: Fleet, model: str, code: str) -> None:
    """The same question over three transports at once."""

    async def scene() -> None:
        body = {"message": "a", "model": model}
        asked = (http("POST", CHAT, body), sse(body), start_ws(model))
        for told in await asyncio.gather(*(provocation(fleet) for provocation in asked)):
            check(told, TABLE[code])

    asyncio.run(scene())


def test_a_worker_that_is_gone_is_told_over_every_transport(guarded: Fleet) -> None:
    async def scene() -> None:
        model = "scripted?tokens=2000&interval_ms=20"
        body = {"message": "a", "model": model}
        asked = (http("POST", CHAT, body), sse(body), start_ws(model))
        waiting = [asyncio.ensure_future(provocation(guarded)) for provocation in asked]
        async with asyncio.timeout(20):  # until each has told something: what had not is begun anew
            while await told_so_far() < 3:
                await asyncio.sleep(0.05)
        guarded.kill_worker(0)
        try:
            for told in await asyncio.gather(*waiting):
                check(told, TABLE["WORKER_LOST"])
        finally:
            guarded.restart_worker(0)

    async def told_so_far() -> int:
        _, listing, _ = await call("GET", f"{guarded.urls[0]}/api/streams", headers=ALICE)
        return sum(row["state"] == "running" and row["last_event_id"] > 1 for row in listing["streams"])

    asyncio.run(scene())


@pytest.fixture(scope="module")
def idle() -> Iterator[Fleet]:
    """Nobody works here."""
    env = {"TOKENRELAY_MAX_QUEUE": "3", "TOKENRELAY_QUEUE_TIMEOUT_S": "1"}
    with Fleet(edges=1, workers=0, env=env) as fleet:
        yield fleet


def test_what_waits_too_long_is_told_over_every_transport(idle: Fleet) -> None:
    at_all_doors(idle, "scripted", "TIMEOUT")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_full_queue_is_told_over_every_transport(idle: Fleet, transport: str) -> None:
    body = {"message": "a", "model": "scripted"}
    ask = {"http": http("POST", CHAT, body), "sse": sse(body), "ws": start_ws("scripted")}[transport]

    async def scene() -> Told:
        while True:  # the queue empties by itself, a second later
            for _ in range(3):
                async with Sse.post(idle.urls[0], body):
                    pass
            told = await ask(idle)
            if told.data["error_code"] != "TIMEOUT":
                return told

    check(asyncio.run(scene()), TABLE["OVERLOADED"])
