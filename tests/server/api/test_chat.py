"""What stays of a request while its answer runs, without Redis and without a socket."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import pytest

from tests.stores import open_store
from tokenrelay.protocol.store.scripts import StartReply
from tokenrelay.server.api import chat
from tokenrelay.server.edge import Edge
from tokenrelay.server.http import Call, Endpoint
from tokenrelay.server.live.channel import Channel
from tokenrelay.server.settings import Settings
from tokenrelay.server.transports import wait_for_end


class Client:
    """One who sends a request, then waits."""

    def __init__(self, body: bytes, **headers: str) -> None:
        self.scope = {
            "type": "http", "method": "POST", "path": "/api/chat", "query_string": b"", "http_version": "1.1",
            "headers": [
                (name.encode(), value.encode())
                for name, value in {"host": "127.0.0.1", "content-length": str(len(body)), **headers}.items()
            ],
        }  # fmt: skip
        self._body: bytes | None = body
        self.asked = 0
        self.asked_before_the_answer: int | None = None
        self.sent: list[dict[str, Any]] = []
        self.gone = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        self.asked += 1
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if self.asked_before_the_answer is None:
            self.asked_before_the_answer = self.asked
        self.sent.append(message)


def edge_without_redis(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Edge:
    """One on which every generation starts at once and writes nothing."""
    edge = Edge(Settings(**settings), open_store("redis://127.0.0.1:1"))

    async def create() -> Channel:
        channel = Channel("0" * 32, time.monotonic(), is_new=True)
        channel.feed.anchor(0)
        channel.coming = 1
        return channel

    async def start(stream_id: str, *_: Any, **__: Any) -> StartReply:
        return StartReply("started", stream_id)

    monkeypatch.setattr(edge.hub, "create", create)
    monkeypatch.setattr(edge.jobs, "start", start)
    return edge


@pytest.mark.parametrize("is_streamed", [True, False])
def test_while_an_answer_runs_its_request_is_let_go(is_streamed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        edge = edge_without_redis(monkeypatch)
        if not is_streamed:
            monkeypatch.setattr(wait_for_end, "_has_ended", _never)
        asked = {"message": "a" * 1000, "stream": is_streamed, "model": "neuroswitch"}
        body = json.dumps(asked).encode()
        before = sys.getrefcount(body)
        client = Client(body)
        task = asyncio.create_task(Endpoint(edge, {"POST": chat.chat})(client.scope, client.receive, client.send))
        async with asyncio.timeout(10):
            while client.asked < 2:  # the request has been read, and its client is watched
                await asyncio.sleep(0.001)
        assert sys.getrefcount(body) == before
        client.gone.set()
        await task

    asyncio.run(scene())


async def _never(call: Call, stream_id: str) -> bool:
    return False


@pytest.mark.parametrize("authorization", ["", "Bearer wrong", "Bearer a.b.c"])
def test_the_body_of_a_stranger_is_not_read(authorization: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        edge = edge_without_redis(monkeypatch, api_keys="alice:alice-secret", jwt_secret="s" * 32)
        client = Client(b'{"stream": [' + b"[]," * 1000, authorization=authorization, accept="text/event-stream")
        await Endpoint(edge, {"POST": chat.chat})(client.scope, client.receive, client.send)
        assert client.asked_before_the_answer == 0
        assert client.sent[0]["status"] == 401
        assert (b"content-type", b"text/event-stream") in client.sent[0]["headers"]

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("body", "accept", "is_event"),
    [
        (b'{"message": "", "stream": true}', "", True),
        (b'{"message": "", "stream": false}', "text/event-stream", False),
        (b'{"message": "", "stream": true}', "application/json", False),
        (b"{", "", False),
        (b"{", "text/event-stream", True),
        (b'{"stream": [[]]}', "", False),
    ],
)
def test_an_error_is_an_event_where_events_were_asked_for(
    body: bytes, accept: str, is_event: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        edge = edge_without_redis(monkeypatch)
        client = Client(body, accept=accept)
        await Endpoint(edge, {"POST": chat.chat})(client.scope, client.receive, client.send)
        assert client.sent[0]["status"] in (400, 422)
        assert ((b"content-type", b"text/event-stream") in client.sent[0]["headers"]) == is_event

    asyncio.run(scene())


@pytest.mark.parametrize("encoding", ["gzip", "br", "GZIP", "identity, gzip"])
def test_an_encoded_body_is_refused_by_name(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        edge = edge_without_redis(monkeypatch)
        client = Client(b"\x1f\x8b")
        client.scope["headers"].append((b"content-encoding", encoding.encode()))  # type: ignore[attr-defined]
        await Endpoint(edge, {"POST": chat.chat})(client.scope, client.receive, client.send)
        assert client.sent[0]["status"] == 415
        assert encoding.lower() in json.loads(client.sent[1]["body"])["error"]

    asyncio.run(scene())
