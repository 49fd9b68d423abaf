"""Clients of the wire for tests: one for each transport, both giving (id, data), both dropped without a goodbye."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeAlias

import aiohttp
import msgpack
from websockets.asyncio.client import ClientConnection, connect

from tokenrelay.protocol.wire.sse import Decoder

EventPair: TypeAlias = tuple[int | None, dict[str, Any]]
"""An event as a client sees it; the id is None for the edge's own first word."""

PATIENCE_S = 30.0


def words(count: int) -> str:
    """What the scripted model writes."""
    return "".join(f"w{number} " for number in range(count))


def text_of(events: list[EventPair]) -> str:
    """What a client that only appends `token` has."""
    return "".join(data["token"] for _, data in events)


class Sse:
    """One SSE response. `async with Sse.post(…) as stream: async for id, data in stream`."""

    def __init__(self, method: str, url: str, headers: Mapping[str, str], body: Any = None) -> None:
        self._method, self._url, self._headers, self._body = method, url, headers, body
        self._session: aiohttp.ClientSession | None = None
        self.decoder = Decoder()
        self.idle_s = PATIENCE_S  # silence after which the connection is taken for dead
        self._pending: list[EventPair] = []  # read, but not asked for yet

    @classmethod
    def post(cls, url: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Sse:
        return cls("POST", f"{url}/api/chat", headers or {}, {"stream": True, **body})

    @classmethod
    def get(
        cls, url: str, stream_id: str, after: int | None = None, *, replay: str = "compact",
        headers: Mapping[str, str] | None = None,
    ) -> Sse:  # fmt: skip
        given = dict(headers or {})
        if after is not None:
            given["Last-Event-ID"] = str(after)
        return cls("GET", f"{url}/api/streams/{stream_id}?replay={replay}", given)

    async def __aenter__(self) -> Sse:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=self.idle_s)
        # One connection each, closed and not kept: a dropped stream is a dropped socket.
        connector = aiohttp.TCPConnector(force_close=True)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=connector)
        try:
            self.response = await self._session.request(self._method, self._url, headers=self._headers, json=self._body)
        except BaseException:
            await self._session.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.response.close()
        assert self._session is not None
        await self._session.close()

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def stream_id(self) -> str:
        return self.response.headers["X-Stream-Id"]

    async def reads(self) -> AsyncIterator[bytes]:
        """What each network read brought, as it came."""
        while chunk := await self.response.content.readany():
            yield chunk

    async def __aiter__(self) -> AsyncIterator[EventPair]:
        while True:
            while self._pending:
                yield self._pending.pop(0)
            chunk = await self.response.content.readany()
            if not chunk:
                return
            last = self.decoder.last_event_id
            for frame in self.decoder.feed(chunk):
                entry_id = int(frame.event_id) if frame.event_id and frame.event_id != last else None
                last = frame.event_id
                self._pending.append((entry_id, json.loads(frame.data)))

    async def take(self, count: int | None = None) -> list[EventPair]:
        """So many numbered events (None: to the end), the unnumbered ones before them included."""
        events: list[EventPair] = []
        if count == 0:
            return events
        async for event in self:
            events.append(event)
            if count is not None and sum(entry_id is not None for entry_id, _ in events) == count:
                break
        return events


class Ws:
    """One WebSocket in either subprotocol. `async with Ws(url) as socket: await socket.resume(…)`."""

    def __init__(
        self, url: str, *, binary: bool = False, headers: Mapping[str, str] | None = None, query: str = ""
    ) -> None:
        self._url = url.replace("http", "ws", 1) + "/api/ws" + query
        self._protocol = "tokenrelay.v1.msgpack" if binary else "tokenrelay.v1.json"
        self._binary = binary
        self.idle_s = PATIENCE_S
        self._headers = headers or {}
        self.connection: ClientConnection
        self._pending: list[dict[str, Any]] = []

    async def __aenter__(self) -> Ws:
        self.connection = await connect(
            self._url, subprotocols=[self._protocol], additional_headers=self._headers, compression=None  # type: ignore[list-item]
        )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        self.connection.transport.abort()
        await self.connection.wait_closed()

    async def say(self, *messages: Mapping[str, Any]) -> None:
        value: Any = messages[0] if len(messages) == 1 else list(messages)
        await self.connection.send(msgpack.packb(value) if self._binary else json.dumps(value))

    async def hear(self) -> dict[str, Any]:
        """The next message, in whichever frame it came."""
        while not self._pending:
            async with asyncio.timeout(self.idle_s):
                frame = await self.connection.recv()
            value = msgpack.unpackb(frame) if isinstance(frame, bytes) else json.loads(frame)
            self._pending += value if isinstance(value, list) else [value]
        return self._pending.pop(0)

    async def start(self, body: Mapping[str, Any], ref: str = "s") -> str:
        await self.say({"type": "start", "ref": ref, **body})
        answer = await self.hear()
        assert answer["type"] == "started", answer
        return str(answer["stream_id"])

    async def resume(self, stream_id: str, after: int | None = None, *, replay: str = "compact") -> dict[str, Any]:
        await self.say({"type": "resume", "ref": "r", "stream_id": stream_id, "after": after, "replay": replay})
        return await self.hear()

    async def take(self, stream_id: str, count: int | None = None) -> list[EventPair]:
        """So many events of one stream (None: to its end)."""
        events: list[EventPair] = []
        while count is None or len(events) < count:
            message = await self.hear()
            if message["type"] != "event" or message["stream_id"] != stream_id:
                continue
            events.append((message["id"], message["data"]))
            if message["data"]["done"]:
                break
        return events


async def call(
    method: str, url: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> tuple[int, Any, Any]:
    """One plain HTTP call: status, JSON (None when there is none), headers."""
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.request(method, url, data=data, headers=headers) as response,
    ):
        raw = await response.read()
        is_json = response.headers.get("Content-Type", "").startswith("application/json")
        return response.status, json.loads(raw) if is_json else None, response.headers


async def start(url: str, model: str, headers: Mapping[str, str] | None = None, **body: Any) -> str:
    """Start a generation and let go of it at once; gives its id."""
    async with Sse.post(url, {"message": "hello", "model": model, **body}, headers) as stream:
        return stream.stream_id


async def whole(
    url: str, stream_id: str, *, replay: str = "exact", headers: Mapping[str, str] | None = None
) -> list[EventPair]:
    """All events of a stream from the start to its end."""
    async with Sse.get(url, stream_id, 0, replay=replay, headers=headers) as stream:
        return await stream.take()
