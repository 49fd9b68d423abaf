"""The shipped nginx file in a real nginx, buffering at its default: tokens pass one by one, edges may die.

Nothing here is timed. The model's second token is a minute away: what has arrived while the edge says that it still
writes was not held back.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias

import aiohttp
import httpx2
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.fleet import Fleet, until
from tests.recipes.book import recipe
from tests.recipes.nginx import Nginx
from tests.recipes.run import AUTHORIZED, all_streams, cancel, events_of, fetch, newest, running, snapshot
from tests.wire import PATIENCE_S, EventPair, Sse, Ws, call, start, text_of, words
from tokenrelay.loadtest.fleet import free_port

SLOW = "scripted?tokens=2&interval_ms=60000"


# -- token by token
# -----------------------------------------------------------------------------------------------------


def first_word_then_stop(nginx: Nginx, fleet: Fleet, url: str, code: str) -> str:
    """The first token is read while the model still writes; the rest is what a stop makes of it. Gives all that was
    said."""
    with running("sh", code, url, {"CURL_CA_BUNDLE": str(nginx.certificate)}) as program:
        program.wait_for('"w0 "')
        stream_id = newest(fleet)
        assert snapshot(fleet, stream_id)["state"] == "running"
        cancel(fleet, stream_id)
        events = events_of(program.rest())
    assert "".join(event["token"] for event in events) == "w0 "
    assert (events[-1]["finish_reason"], events[-1]["stream_id"]) == ("cancelled", stream_id)
    return program.said


def test_a_stream_passes_token_by_token(nginx: Nginx, fleet: Fleet) -> None:
    first_word_then_stop(nginx, fleet, nginx.url, recipe("Behind nginx", "sh"))
    until(lambda: '"POST /api/chat HTTP/1.1" 200' in nginx.log.read_text(), "nothing came through nginx")


def test_so_it_does_over_http2(nginx: Nginx, fleet: Fleet) -> None:
    first_word_then_stop(nginx, fleet, nginx.secure_url, recipe("Behind HTTP/2", "sh"))
    until(lambda: '"POST /api/chat HTTP/2.0" 200' in nginx.log.read_text(), "nothing came over HTTP/2")


def test_so_it_does_where_everything_is_compressed(nginx_is_here: None, fleet: Fleet) -> None:
    """It is the edge's `X-Accel-Buffering` that makes nginx flush its compressor: without it nothing came."""
    edits = {
        "gzip_types      text/css text/javascript application/json;": "gzip_types *;",
        "gzip_min_length 1024;": "gzip_min_length 0;",
    }
    with Nginx(fleet.urls, edits) as nginx:
        for url, heading in ((nginx.url, "Behind nginx"), (nginx.secure_url, "Behind HTTP/2")):
            code = recipe(heading, "sh").replace("curl -sN", "curl -sN -i --compressed")
            said = first_word_then_stop(nginx, fleet, url, code)
            assert "content-encoding: gzip" in said.lower()


def test_one_who_joins_late_has_what_there_is_at_once(nginx: Nginx, fleet: Fleet) -> None:
    async def story() -> None:
        stream_id = await start(nginx.url, SLOW, AUTHORIZED)
        while not snapshot(fleet, stream_id)["text"]:  # before it has begun a cursor of 1 would be ahead
            await asyncio.sleep(0.02)
        async with Sse.get(nginx.url, stream_id, 1, headers=AUTHORIZED) as reader:
            assert text_of(await reader.take(1)) == "w0 "
            assert snapshot(fleet, stream_id)["state"] == "running"
            cancel(fleet, stream_id)
            assert (await reader.take())[-1][1]["finish_reason"] == "cancelled"

    asyncio.run(story())


@pytest.mark.parametrize("binary", [False, True], ids=["json", "msgpack"])
def test_a_websocket_passes_token_by_token(
    nginx: Nginx, fleet: Fleet, binary: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(nginx.certificate))

    async def story(url: str) -> None:
        async with Ws(url, binary=binary, headers=AUTHORIZED) as socket:
            assert socket.connection.subprotocol == f"tokenrelay.v1.{'msgpack' if binary else 'json'}"
            stream_id = await socket.start({"message": "hello", "model": SLOW})
            assert text_of(await socket.take(stream_id, 2)) == "w0 "
            assert snapshot(fleet, stream_id)["state"] == "running"
            await socket.say({"type": "cancel", "stream_id": stream_id})
            assert (await socket.take(stream_id))[-1][1]["finish_reason"] == "cancelled"

    asyncio.run(story(nginx.url))
    asyncio.run(story(nginx.secure_url))


# -- edges that go
# ------------------------------------------------------------------------------------------------------

COUNT = 100
MODEL = f"scripted?tokens={COUNT}&interval_ms=20"
DROPPED = (aiohttp.ClientError, ConnectionClosed, InvalidStatus, OSError)
Open: TypeAlias = Callable[[str | None, int], AsyncIterator[tuple[str, EventPair]]]
"""One connection: what it starts, or resumes after an id; each event with the stream's id."""


class Reader:
    """Follows one stream through nginx over as many connections as it takes."""

    def __init__(self, connect: Open) -> None:
        self._connect = connect
        self.events: list[EventPair] = []
        self.connections = 0
        self.has_some = asyncio.Event()

    @property
    def is_over(self) -> bool:
        return bool(self.events) and self.events[-1][1]["done"] is True

    async def read(self) -> None:
        stream_id: str | None = None
        while not self.is_over:
            self.connections += 1
            last = max((number or 0 for number, _ in self.events), default=0)
            try:
                async for known, event in self._connect(stream_id, last):
                    stream_id = known
                    self.events.append(event)
                    self.has_some.set()
            except DROPPED:
                pass  # comes back with its cursor

    def assert_whole(self) -> None:
        assert text_of(self.events) == words(COUNT)
        numbers = [number for number, _ in self.events if number is not None]
        assert numbers == sorted(set(numbers))
        assert numbers[-1] == COUNT + 2


def over_sse(url: str) -> Open:
    async def connect(stream_id: str | None, after: int) -> AsyncIterator[tuple[str, EventPair]]:
        if stream_id is None:
            asked = Sse.post(url, {"message": "hello", "model": MODEL}, AUTHORIZED)
        else:
            asked = Sse.get(url, stream_id, after, headers=AUTHORIZED)
        async with asked as stream:
            stream.response.raise_for_status()
            async for event in stream:
                yield stream.stream_id, event

    return connect


def over_websocket(url: str, *, binary: bool) -> Open:
    async def connect(stream_id: str | None, after: int) -> AsyncIterator[tuple[str, EventPair]]:
        async with Ws(url, binary=binary, headers=AUTHORIZED) as socket:
            if stream_id is None:
                stream_id = await socket.start({"message": "hello", "model": MODEL})
            else:
                await socket.resume(stream_id, after)
            while True:
                [event] = await socket.take(stream_id, 1)
                yield stream_id, event
                if event[1]["done"]:
                    return

    return connect


def test_an_edge_that_dies_behind_nginx_costs_nobody_a_token(nginx: Nginx, fleet: Fleet) -> None:
    async def story() -> None:
        kinds = [over_sse(nginx.url), over_websocket(nginx.url, binary=False), over_websocket(nginx.url, binary=True)]
        readers = [Reader(kind) for kind in kinds for _ in range(2)]
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            for reader in readers:  # one after the other: nginx gives each edge one of a kind
                group.create_task(reader.read())
                await reader.has_some.wait()
            await asyncio.to_thread(fleet.kill_edge, 0)
            assert not any(reader.is_over for reader in readers)
        for reader in readers:
            reader.assert_whole()
        drops = [reader.connections - 1 for reader in readers]
        assert all(sum(drops[at : at + 2]) >= 1 for at in (0, 2, 4)), f"of each kind one was on the dead edge: {drops}"
        assert 0 in drops, "nobody was on the other"

    try:
        asyncio.run(story())
    finally:
        fleet.restart_edge(0)


def test_who_comes_while_an_edge_is_being_replaced_is_given_to_another(nginx: Nginx, fleet: Fleet) -> None:
    """An EventSource takes a 503 for the end."""

    async def story() -> None:
        stream_id = await start(fleet.urls[1], SLOW, AUTHORIZED)
        # A whole answer: it may finish, and holds the drain open.
        body = {"message": "hello", "model": SLOW, "on_disconnect": "cancel"}
        waiting = asyncio.create_task(call("POST", f"{fleet.urls[0]}/api/chat", body, AUTHORIZED))
        while await asyncio.to_thread(newest, fleet) == stream_id:
            await asyncio.sleep(0)
        fleet.edges[0].send_signal(signal.SIGTERM)
        await asyncio.to_thread(until, lambda: is_draining(fleet), "the edge does not leave")
        for _ in range(4):
            async with Sse.get(nginx.url, stream_id, 0, headers=AUTHORIZED) as reader:
                assert reader.status == 200
                assert text_of(await reader.take(2)) == "w0 "
        assert is_draining(fleet)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        cancel(fleet, stream_id)

    try:
        asyncio.run(story())
        both = ", ".join(url.removeprefix("http://") for url in fleet.urls)
        until(lambda: f" {both} " in nginx.log.read_text(), "nginx asked nobody twice")
    finally:
        fleet.restart_edge(0)


def is_draining(fleet: Fleet) -> bool:
    return bool(fetch(f"{fleet.urls[0]}/readyz")["draining"])


# -- what nginx itself says
# ---------------------------------------------------------------------------------------------


def test_where_no_edge_is_left_clients_are_told_to_come_back(nginx_is_here: None) -> None:
    nobody = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    with Nginx(nobody) as nginx:
        for _ in range(4):  # when nginx has given both up as well
            asked = {"X-Request-Id": "mine"}
            status, said, headers = asyncio.run(call("GET", f"{nginx.url}/api/streams", headers=asked))
            assert (status, said["error_code"], said["retry_after"]) == (503, "SERVICE_UNAVAILABLE", 2)
            assert (headers["Retry-After"], said["request_id"]) == ("2", "mine")


@pytest.mark.parametrize(("size", "by_edge"), [(1_500_000, True), (52_000_000, False)])
def test_a_body_too_large_is_refused_in_one_form(nginx: Nginx, size: int, by_edge: bool) -> None:
    body = json.dumps({"message": "x" * size})
    with httpx2.Client(timeout=PATIENCE_S, trust_env=False) as client:
        answer = client.post(f"{nginx.url}/api/chat", content=body, headers=AUTHORIZED)
    said = answer.json()
    assert (answer.status_code, said["error_code"], "max_bytes" in said) == (413, "PAYLOAD_TOO_LARGE", by_edge)


def test_a_whole_answer_may_take_longer_than_a_silent_stream(nginx_is_here: None, fleet: Fleet) -> None:
    body: dict[str, Any] = {"message": "hello", "model": "scripted?tokens=3&first_ms=1500&interval_ms=0"}
    with Nginx(fleet.urls, {"proxy_read_timeout    60s;": "proxy_read_timeout 1s;"}) as nginx:
        status, said, _ = asyncio.run(call("POST", f"{nginx.url}/api/chat", body, AUTHORIZED))
    assert (status, said["response"]) == (200, words(3))


def test_one_that_takes_too_long_for_nginx_is_a_timeout_and_not_asked_twice(nginx_is_here: None, fleet: Fleet) -> None:
    body = {"message": "hello", "model": SLOW}
    before = len(all_streams(fleet))
    with Nginx(fleet.urls, {"proxy_read_timeout 1080s;": "proxy_read_timeout 1s;"}) as nginx:
        status, said, _ = asyncio.run(call("POST", f"{nginx.url}/api/chat", body, AUTHORIZED))
    assert (status, said["error_code"]) == (504, "TIMEOUT")
    assert len(all_streams(fleet)) == before + 1
    cancel(fleet, newest(fleet))


def test_what_is_not_for_strangers_stays_inside(nginx: Nginx) -> None:
    assert asyncio.run(call("GET", f"{nginx.url}/metrics"))[0] == 404
    assert asyncio.run(call("GET", f"{nginx.url}/healthz"))[0] == 200


def test_the_log_holds_no_ticket(nginx: Nginx, fleet: Fleet) -> None:
    _, given, _ = asyncio.run(call("POST", f"{nginx.url}/api/tickets", {}, AUTHORIZED))
    status, _, headers = asyncio.run(call("GET", f"{nginx.url}/api/streams/nosuchstream?ticket={given['ticket']}"))
    assert status == 404  # the ticket was taken
    until(lambda: headers["X-Request-Id"] in nginx.log.read_text(), "the call was not logged")
    assert given["ticket"] not in nginx.log.read_text()
