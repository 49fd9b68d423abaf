"""Bad input of every kind: status, code, field; and the process unmoved."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.fleet import Fleet
from tests.raw import Raw
from tests.wire import Sse, Ws, call, start, text_of, whole, words
from tokenrelay.protocol.errors import TABLE
from tokenrelay.protocol.store import keys

CHAT = "/api/chat"
ALICE = {"Authorization": "Bearer alice-secret"}
BOB = {"Authorization": "apikey bob-secret"}


@pytest.fixture(scope="module")
def guarded() -> Iterator[Fleet]:
    env = {"TOKENRELAY_API_KEYS": "alice:alice-secret, bob:bob-secret", "TOKENRELAY_MAX_BODY_BYTES": "4096"}
    with Fleet(edges=2, workers=1, env=env) as fleet:
        yield fleet


BAD_ROLE = {"messages": [{"role": "x", "content": "a"}]}
LONG_KEY = {"Idempotency-Key": "k" * 300}

ROWS: list[tuple[str, str, str, Any, dict[str, str], int, str, str | None]] = [
    # name, method, path, body, headers, status, code, field
    ("not JSON", "POST", CHAT, b"{", {}, 400, "INVALID_REQUEST", None),
    ("empty", "POST", CHAT, b"", {}, 400, "INVALID_REQUEST", None),
    ("not UTF-8", "POST", CHAT, b'{"message":"\xff"}', {}, 400, "INVALID_REQUEST", None),
    ("too deep", "POST", CHAT, b'{"message":"x","preferences":{"a":' + b"[" * 2000, {}, 400, "INVALID_REQUEST", None),
    ("not an object", "POST", CHAT, b"[1]", {}, 422, "VALIDATION_ERROR", "body"),
    ("nothing asked", "POST", CHAT, {}, {}, 422, "VALIDATION_ERROR", "message"),
    ("asked twice", "POST", CHAT, {"message": "a", "prompt": "b"}, {}, 422, "VALIDATION_ERROR", "prompt"),
    ("only spaces", "POST", CHAT, {"message": "  "}, {}, 422, "VALIDATION_ERROR", "message"),
    ("wrong type", "POST", CHAT, {"message": 5}, {}, 422, "VALIDATION_ERROR", "message"),
    ("wrong role", "POST", CHAT, BAD_ROLE, {}, 422, "VALIDATION_ERROR", "messages[0].role"),
    ("too hot", "POST", CHAT, {"message": "a", "temperature": 9}, {}, 422, "VALIDATION_ERROR", "temperature"),
    ("no tokens", "POST", CHAT, {"message": "a", "max_tokens": 0}, {}, 422, "VALIDATION_ERROR", "max_tokens"),
    ("no such model", "POST", CHAT, {"message": "a", "model": "gpt5"}, {}, 422, "VALIDATION_ERROR", "model"),
    ("model with a line", "POST", CHAT, {"message": "a", "model": "a\nb"}, {}, 422, "VALIDATION_ERROR", "model"),
    ("bad script", "POST", CHAT, {"message": "a", "model": "scripted?tokens=x"}, {}, 422, "VALIDATION_ERROR", "model"),
    ("no such provider", "POST", CHAT, {"message": "a", "provider": "acme"}, {}, 422, "VALIDATION_ERROR", "provider"),
    ("bad grace", "POST", CHAT, {"message": "a", "on_disconnect": "die"}, {}, 422, "VALIDATION_ERROR", "on_disconnect"),
    ("bad key", "POST", CHAT, {"message": "a"}, LONG_KEY, 422, "VALIDATION_ERROR", "Idempotency-Key"),
    ("provider not there", "POST", CHAT, {"message": "a", "model": "claude"}, {}, 503, "SERVICE_UNAVAILABLE", "model"),
    ("too large", "POST", CHAT, b'{"message":"' + b"a" * 5000 + b'"}', {}, 413, "PAYLOAD_TOO_LARGE", None),
    ("no key", "POST", CHAT, {"message": "a"}, {"Authorization": ""}, 401, "UNAUTHORIZED", None),
    ("wrong key", "POST", CHAT, {"message": "a"}, {"Authorization": "Bearer nope"}, 401, "UNAUTHORIZED", None),
    ("basic", "GET", "/api/streams", None, {"Authorization": "Basic YTpi"}, 401, "UNAUTHORIZED", None),
    ("unknown stream", "GET", f"/api/streams/{'0' * 32}", None, {}, 404, "NOT_FOUND", None),
    ("no stream id", "GET", "/api/streams/%0d%0aX", None, {}, 404, "NOT_FOUND", None),
    ("cancel unknown", "DELETE", f"/api/streams/{'0' * 32}", None, {}, 404, "NOT_FOUND", None),
    ("no such path", "GET", "/api/nothing", None, {}, 404, "NOT_FOUND", None),
    ("wrong method", "PUT", CHAT, None, {}, 405, "METHOD_NOT_ALLOWED", None),
    ("bad ticket", "GET", "/api/streams/x?ticket=abc", None, {}, 401, "UNAUTHORIZED", None),
    ("ticket of no stream", "POST", "/api/tickets", {"stream_id": 5}, {}, 422, "VALIDATION_ERROR", "stream_id"),
    ("ticket for none", "POST", "/api/tickets", {"stream_id": "0" * 32}, {}, 404, "NOT_FOUND", None),
    ("socket by hand", "GET", "/api/ws", None, {}, 400, "INVALID_REQUEST", None),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_refusal_has_its_status_its_code_and_its_field(guarded: Fleet, row: Any) -> None:
    _, method, path, body, headers, status, code, field = row

    async def scene() -> None:
        given = {**ALICE, **headers}
        got, answer, heads = await call(method, guarded.urls[0] + path, body, given)
        assert (got, answer["error_code"], answer.get("field")) == (status, code, field), answer
        assert answer["error"]
        assert answer["request_id"] == heads["X-Request-Id"]
        assert TABLE[code].status == status
        assert guarded.edges[0].poll() is None

    asyncio.run(scene())


def test_where_events_were_asked_for_a_refusal_is_one_event_with_the_same_status(guarded: Fleet) -> None:
    async def scene() -> None:
        bad = {"message": "a", "stream": True, "temperature": 9}
        async with Sse("POST", guarded.urls[0] + CHAT, ALICE, bad) as stream:
            assert (stream.status, stream.response.headers["Content-Type"]) == (422, "text/event-stream")
            [(entry_id, data)] = await stream.take()
        assert (entry_id, data["error_code"], data["field"]) == (None, "VALIDATION_ERROR", "temperature")
        assert (data["token"], data["done"], data["retryable"]) == ("", True, False)
        async with Sse("POST", guarded.urls[0] + CHAT, {**ALICE, "Accept": "application/json"}, bad) as stream:
            assert (stream.status, stream.response.headers["Content-Type"]) == (422, "application/json")
        # Whoever is not known is refused at the head: that events are wanted has to stand there.
        events, body = {"Accept": "text/event-stream"}, {"message": "a", "stream": True}
        async with Sse("POST", guarded.urls[0] + CHAT, events, body) as stream:
            assert stream.status == 401
            assert (await stream.take())[0][1]["error_code"] == "UNAUTHORIZED"
        async with Sse("POST", guarded.urls[0] + CHAT, {}, body) as stream:
            assert (stream.status, stream.response.headers["Content-Type"]) == (401, "application/json")

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("cursor", "status", "code"),
    [
        ("5", 204, None),
        ("6", 409, "CURSOR_AHEAD"),
        ("abc", 400, "INVALID_CURSOR"),
        ("1.5", 400, "INVALID_CURSOR"),
        ("-2", 400, "INVALID_CURSOR"),
        ("99999999999999999999", 400, "INVALID_CURSOR"),
    ],
)
def test_a_cursor_is_answered_by_its_row(guarded: Fleet, cursor: str, status: int, code: str | None) -> None:
    async def scene() -> None:
        url = guarded.urls[0]
        stream_id = await start(url, "scripted?tokens=3&interval_ms=0", ALICE)
        await whole(url, stream_id, headers=ALICE)
        for path, headers in ((f"?after={cursor}", {}), ("", {"Last-Event-ID": cursor})):
            got, answer, _ = await call("GET", f"{url}/api/streams/{stream_id}{path}", headers={**ALICE, **headers})
            assert (got, answer and answer["error_code"]) == (status, code)

    asyncio.run(scene())


@pytest.mark.parametrize("cursor", ["", "0", "-", "-1", None])
def test_these_cursors_mean_the_start(guarded: Fleet, cursor: str | None) -> None:
    async def scene() -> None:
        url = guarded.urls[0]
        stream_id = await start(url, "scripted?tokens=3&interval_ms=0", ALICE)
        path = f"{url}/api/streams/{stream_id}" + ("" if cursor is None else f"?after={cursor}")
        async with Sse("GET", path, ALICE) as stream:
            assert text_of(await stream.take()) == words(3)

    asyncio.run(scene())


def test_a_foreign_stream_and_none_at_all_are_told_in_the_same_words(guarded: Fleet) -> None:
    async def scene() -> None:
        url = guarded.urls[0]
        stream_id = await start(url, "scripted?tokens=3&interval_ms=0", ALICE)
        await whole(url, stream_id, headers=ALICE)
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel")):
            answers = []
            for target in (stream_id, "0" * 32):
                status, answer, heads = await call(method, f"{url}/api/streams/{target}{path}", headers=BOB)
                answer.pop("request_id")
                names = sorted(name for name in heads if name.lower() not in ("date", "x-request-id"))
                answers.append((status, answer, names))
            assert answers[0] == answers[1]
            assert answers[0][0] == 404
        async with Ws(url, headers=BOB) as socket:
            for target in (stream_id, "0" * 32):
                answer = await socket.resume(target)
                assert (answer["type"], answer["error_code"], answer["ref"]) == ("error", "NOT_FOUND", "r")
        _, listing, _ = await call("GET", f"{url}/api/streams", headers=BOB)
        assert stream_id not in json.dumps(listing)

    asyncio.run(scene())


def test_an_expired_stream_says_so_to_its_owner_only(guarded: Fleet) -> None:
    async def scene() -> None:
        url = guarded.urls[0]
        stream_id = await start(url, "scripted?tokens=3&interval_ms=0", ALICE)
        await whole(url, stream_id, headers=ALICE)
        guarded.redis().delete(keys.log(stream_id))  # what its time to live does an hour later
        status, answer, _ = await call("GET", f"{url}/api/streams/{stream_id}", headers=ALICE)
        assert (status, answer["error_code"]) == (410, "STREAM_EXPIRED")
        status, answer, _ = await call("GET", f"{url}/api/streams/{stream_id}", headers=BOB)
        assert (status, answer["error_code"]) == (404, "NOT_FOUND")
        async with Ws(url, headers=ALICE) as socket:
            assert (await socket.resume(stream_id, 1))["error_code"] == "STREAM_EXPIRED"

    asyncio.run(scene())


def test_a_full_queue_refuses_before_anything_is_started() -> None:
    async def scene(fleet: Fleet) -> None:
        await start(fleet.urls[0], "scripted")
        status, answer, heads = await call("POST", fleet.urls[0] + CHAT, {"message": "a", "model": "scripted"})
        assert (status, answer["error_code"], heads["Retry-After"]) == (503, "OVERLOADED", "5")
        _, listing, _ = await call("GET", f"{fleet.urls[0]}/api/streams")
        assert len(listing["streams"]) == 1

    with Fleet(edges=1, workers=0, env={"TOKENRELAY_MAX_QUEUE": "1"}) as fleet:
        asyncio.run(scene(fleet))


# -- tickets
# -------------------------------------------------------------------------------------------------------------


def test_a_ticket_reads_on_any_edge_what_its_owner_may_and_nothing_else(guarded: Fleet) -> None:
    async def scene() -> None:
        first, second = guarded.urls
        mine = await start(first, "scripted?tokens=3&interval_ms=0", ALICE)
        other = await start(first, "scripted?tokens=3&interval_ms=0", ALICE)
        await whole(first, mine, headers=ALICE)
        status, answer, _ = await call("POST", f"{first}/api/tickets", {"stream_id": mine}, ALICE)
        assert (status, answer["expires_in"]) == (200, 60)
        one = answer["ticket"]
        async with Sse("GET", f"{second}/api/streams/{mine}?ticket={one}", {}) as stream:
            assert text_of(await stream.take()) == words(3)
        status, refusal, _ = await call("GET", f"{second}/api/streams/{other}?ticket={one}")
        assert (status, refusal["error_code"]) == (403, "FORBIDDEN")
        status, refusal, _ = await call("POST", second + CHAT + f"?ticket={one}", {"message": "a"})
        assert status == 401
        _, answer, _ = await call("POST", f"{second}/api/tickets", None, ALICE)
        async with Ws(first, query=f"?ticket={answer['ticket']}") as socket:
            stream_id = await socket.start({"message": "a", "model": "scripted?tokens=2&interval_ms=0"})
            assert text_of(await socket.take(stream_id)) == words(2)

    asyncio.run(scene())


# -- the socket
# ----------------------------------------------------------------------------------------------------------


def test_a_socket_without_a_key_is_refused_in_the_handshake(guarded: Fleet) -> None:
    async def scene() -> None:
        with pytest.raises(InvalidStatus) as refused:
            async with Ws(guarded.urls[0]):
                pass
        assert refused.value.response.status_code == 401
        assert json.loads(refused.value.response.body)["error_code"] == "UNAUTHORIZED"
        address = guarded.urls[0].replace("http", "ws") + "/api/ws"
        with pytest.raises(InvalidStatus) as refused:
            async with connect(address, additional_headers=ALICE, subprotocols=["graphql-ws"]):  # type: ignore[list-item]
                pass
        assert refused.value.response.status_code == 400

    asyncio.run(scene())


MESSAGES: list[tuple[str, Any, str, str | None]] = [
    ("not a message", 5, "INVALID_REQUEST", None),
    ("no type", {}, "VALIDATION_ERROR", "type"),
    ("unknown type", {"type": "dance"}, "VALIDATION_ERROR", "type"),
    ("wrong ref", {"type": "ping", "ref": [1]}, "VALIDATION_ERROR", "ref"),
    ("start nothing", {"type": "start", "ref": "a"}, "VALIDATION_ERROR", "message"),
    ("start badly", {"type": "start", "ref": "a", "message": "x", "top_p": 7}, "VALIDATION_ERROR", "top_p"),
    ("start unknown", {"type": "start", "ref": "a", "message": "x", "model": "zzz"}, "VALIDATION_ERROR", "model"),
    ("resume nothing", {"type": "resume", "ref": "a"}, "VALIDATION_ERROR", "stream_id"),
    ("resume unknown", {"type": "resume", "ref": "a", "stream_id": "0" * 32}, "NOT_FOUND", None),
    ("resume with a key name", {"type": "resume", "ref": "a", "stream_id": "x}:meta\r\n"}, "NOT_FOUND", None),
    ("bad cursor", {"type": "resume", "ref": "a", "stream_id": "0" * 32, "after": "x"}, "INVALID_CURSOR", "after"),
    ("bad replay", {"type": "resume", "ref": "a", "stream_id": "0" * 32, "replay": "x"}, "VALIDATION_ERROR", "replay"),
    ("cancel unknown", {"type": "cancel", "ref": "a", "stream_id": "0" * 32}, "NOT_FOUND", None),
]


@pytest.mark.parametrize("binary", [False, True], ids=["json", "msgpack"])
def test_a_bad_message_is_answered_and_the_socket_lives_on(guarded: Fleet, binary: bool) -> None:
    async def scene() -> None:
        async with Ws(guarded.urls[0], binary=binary, headers=ALICE) as socket:
            for name, message, code, field in MESSAGES:
                await socket.connection.send(msgpack.packb(message) if binary else json.dumps(message))
                answer = await socket.hear()
                assert (answer["type"], answer["error_code"], answer.get("field")) == ("error", code, field), name
                if isinstance(message, dict) and isinstance(message.get("ref"), str):
                    assert answer["ref"] == message["ref"], name
            await socket.connection.send(b"\xc1\xff" if binary else "{nonsense")
            assert (await socket.hear())["error_code"] == "INVALID_REQUEST"
            await socket.say({"type": "ping", "ref": 7})
            assert await socket.hear() == {"type": "pong", "ref": 7}

    asyncio.run(scene())


def test_frames_of_the_other_kind_and_too_large_ones_close_the_socket(guarded: Fleet) -> None:
    async def scene() -> None:
        async with Ws(guarded.urls[0], headers=ALICE) as socket:
            await socket.connection.send(b"\x80")
            with pytest.raises(ConnectionClosed) as closed:
                await socket.hear()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1003
        async with Ws(guarded.urls[0], headers=ALICE) as socket:
            await socket.connection.send("x" * 5000)
            with pytest.raises(ConnectionClosed) as closed:
                await socket.hear()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1009
        assert (await call("GET", f"{guarded.urls[0]}/healthz"))[0] == 200

    asyncio.run(scene())


def test_without_keys_an_edge_does_not_listen_to_strangers() -> None:
    import subprocess
    import sys

    with Fleet(edges=0, workers=0) as fleet:
        command = [sys.executable, "-m", "server", "--host", "0.0.0.0", "--port", "0"]
        done = subprocess.run(command, env=fleet.env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2
        assert "TOKENRELAY_API_KEYS" in done.stderr
        assert "Traceback" not in done.stderr


def test_every_answer_tells_a_browser_what_it_must_not_do_with_it(guarded: Fleet) -> None:
    async def scene() -> None:
        url = guarded.urls[0]
        heads = {}
        for name, path in (("page", "/"), ("docs", "/docs"), ("json", "/healthz"), ("metrics", "/metrics"),
                           ("document", "/openapi.json"), ("nothing", "/nowhere"), ("refused", "/api/streams"),
                           ("upgrade", "/api/ws")):  # fmt: skip
            heads[name] = (await call("GET", url + path))[2]
        heads["method"] = (await call("PUT", url + CHAT))[2]
        heads["foreign"] = (await call("POST", url + CHAT, {}, {"Origin": "https://evil.example"}))[2]
        async with Sse.post(url, {"message": "a", "model": "scripted?tokens=1"}, ALICE) as stream:
            heads["events"] = stream.response.headers
            await stream.take()
        with pytest.raises(InvalidStatus) as denied:
            async with Ws(url):
                pass
        heads["handshake"] = denied.value.response.headers
        async with Raw(url) as peer:
            await peer.say(b"no HTTP\r\n\r\n")
            lines = (await peer.all()).decode().partition("\r\n\r\n")[0].splitlines()[1:]
        heads["nonsense"] = {name.title(): value for name, _, value in (line.partition(": ") for line in lines)}
        for name, head in heads.items():
            assert head["X-Content-Type-Options"] == "nosniff", name
            assert head["Referrer-Policy"] == "no-referrer", name
            assert head["X-Frame-Options"] == "DENY", name
            assert head["Cross-Origin-Resource-Policy"] == "same-origin", name
            if "text/html" not in head["Content-Type"]:
                assert head["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'", name

    asyncio.run(scene())


def test_another_web_page_can_neither_call_nor_open_a_socket(guarded: Fleet, fleet: Fleet) -> None:
    async def scene() -> None:
        evil = {"Origin": "https://evil.example"}
        body = {"message": "a", "model": "scripted"}
        for url, headers in ((fleet.urls[0], evil), (guarded.urls[0], {**evil, **ALICE})):
            status, answer, heads = await call("POST", url + CHAT, body, headers)
            assert (status, answer["error_code"]) == (403, "FORBIDDEN")
            assert "Access-Control-Allow-Origin" not in heads
            with pytest.raises(InvalidStatus) as refused:
                async with Ws(url, headers=headers):
                    pass
            assert refused.value.response.status_code == 403
        status, answer, _ = await call("POST", fleet.urls[0] + CHAT, body, {"Host": "evil.example"})
        assert (status, answer["error_code"]) == (403, "FORBIDDEN")

    asyncio.run(scene())


def test_an_allowed_page_may_call_and_read(fleet: Fleet) -> None:
    async def scene(allowing: Fleet) -> None:
        page = {"Origin": "https://app.example"}
        asking = {**page, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        status, _, heads = await call("OPTIONS", allowing.urls[0] + CHAT, headers=asking)
        assert (status, heads["Access-Control-Allow-Origin"]) == (204, "https://app.example")
        assert "POST" in heads["Access-Control-Allow-Methods"]
        assert "Authorization" in heads["Access-Control-Allow-Headers"]
        async with Sse.post(allowing.urls[0], {"message": "a", "model": "scripted?tokens=1"}, page) as stream:
            assert stream.response.headers["Access-Control-Allow-Origin"] == "https://app.example"
            assert "X-Stream-Id" in stream.response.headers["Access-Control-Expose-Headers"]
            assert text_of(await stream.take()) == words(1)

    with Fleet(edges=1, workers=1, env={"TOKENRELAY_ALLOWED_ORIGINS": "https://app.example"}) as allowing:
        asyncio.run(scene(allowing))
