"""One stream over SSE: a request, its answer, its end. Knows one connection only; who calls again decides that."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import quote

import aiohttp

from clients.python.errors import Refused, refusal_of
from clients.python.patience import Dropped, Ended, Said
from protocol.sse import Decoder, FrameTooLarge

IDLE_TIMEOUT_S: Final = 45.0
"""Three heartbeats of 15 s: a connection silent for so long is dead."""

CONNECT_TIMEOUT_S: Final = 10.0

DROPPED: Final = (aiohttp.ClientError, TimeoutError, OSError, FrameTooLarge)
"""How a connection goes. Anything else is a fault, and is raised."""


class Request(NamedTuple):
    """What to ask for: the stream if it has an id already, else its start."""

    stream_id: str | None
    body: Mapping[str, Any] | None
    idempotency_key: str
    after: int


class Reader(Protocol):
    """Whom a connection tells what it brings."""

    def opened(self, stream_id: str | None) -> None: ...
    def take(self, event_id: int | None, data: dict[str, Any]) -> None: ...
    def advise(self, retry_s: float) -> None: ...


class Http:
    """HTTP calls to one server: its address, who is asking, a pool of connections."""

    def __init__(self, url: str, key: str | Callable[[], str] | None) -> None:
        self._url = url.rstrip("/")
        self._key = key
        self._session: aiohttp.ClientSession | None = None  # None outside the client's block

    @property
    def is_open(self) -> bool:
        return self._session is not None

    def open(self) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=IDLE_TIMEOUT_S)
        # No limit: a stream holds its connection as long as it lasts, and the cancel that ends it needs one more.
        self._session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def call(self, method: str, path: str) -> Any:
        """The answer's JSON. Raises Refused, and what `DROPPED` names."""
        async with self._request(method, path) as response:
            if response.status >= 400:
                raise await _refusal(response)
            return await response.json()

    async def cancel(self, stream_id: str) -> str:
        """The stream's state after it. Raises as `call` does."""
        answer = await self.call("POST", f"/api/streams/{quote(stream_id, safe='')}/cancel")
        return str(answer.get("state", "cancelling"))

    async def read(self, request: Request, reader: Reader) -> Ended | Dropped | Said:
        """One connection, to its end, however it ends."""
        try:
            async with self._open(request) as response:
                if response.status == 204:
                    return Ended()
                if response.status != 200:
                    return Said(await _refusal(response))
                if response.content_type != "text/event-stream":
                    return Dropped("no events but a page")  # a portal's login page, say
                reader.opened(response.headers.get("X-Stream-Id"))
                return await _pump(response, reader)
        except DROPPED as error:
            return Dropped(type(error).__name__)

    def _open(self, request: Request) -> aiohttp.client._RequestContextManager:
        if request.stream_id is not None:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(request.after)}
            return self._request("GET", f"/api/streams/{quote(request.stream_id, safe='')}", headers)
        # JSON is named so that a refusal is plain JSON; the answer is events because the body asks for them.
        headers = {"Accept": "text/event-stream, application/json", "Idempotency-Key": request.idempotency_key}
        return self._request("POST", "/api/chat", headers, {**(request.body or {}), "stream": True})

    def _request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: Any = None
    ) -> aiohttp.client._RequestContextManager:
        if self._session is None:
            raise RuntimeError("a client is used inside its `with` block")
        key = self._key() if callable(self._key) else self._key
        authorization = {"Authorization": f"Bearer {key}"} if key else {}
        return self._session.request(method, self._url + path, headers={**(headers or {}), **authorization}, json=body)


async def _pump(response: aiohttp.ClientResponse, reader: Reader) -> Ended | Dropped:
    decoder = Decoder()
    last = ""
    while chunk := await response.content.readany():
        frames = decoder.feed(chunk)
        if decoder.retry_ms is not None:
            reader.advise(decoder.retry_ms / 1000)
        for frame in frames:
            # An id persists on a connection (WHATWG); an event has its own when it is another than the last.
            has_own = frame.event_id != last and frame.event_id.isascii() and frame.event_id.isdigit()
            last = frame.event_id
            data = _object(frame.data)
            if data is None:
                return Dropped("an event that is no object")
            reader.take(int(frame.event_id) if has_own else None, data)
            if data.get("done"):
                return Ended()
    return Dropped("the connection ended")


async def _refusal(response: aiohttp.ClientResponse) -> Refused:
    problem = _object(await response.read()) or {}
    return refusal_of(problem, response.status, response.headers.get("Retry-After"))


def _object(text: str | bytes) -> dict[str, Any] | None:
    """None where it is none: of a proxy, say."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
