"""Calls to one server: its address, who is asking, a pool of connections. Knows no stream.

HTTP goes through aiohttp, WebSockets through the library `websockets`: of a handshake that was refused it gives the
answer's body, which says why, and its own pings find a dead peer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit

import aiohttp
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from tokenrelay.protocol.wire.sse import FrameTooLarge
from tokenrelay_client.errors import Refused, refusal_of

BEAT_S: Final = 15.0
IDLE_TIMEOUT_S: Final = 3 * BEAT_S
"""Three heartbeats: a connection silent for so long is dead."""

CONNECT_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 1.0

SUBPROTOCOL: Final = Subprotocol("tokenrelay.v1.json")

MAX_FRAME_BYTES: Final = 8 * 1024 * 1024
"""An event has at most 1 MiB, and a frame ends with the event that takes it beyond 32 KiB; with room to spare."""

DROPPED: Final = (aiohttp.ClientError, WebSocketException, TimeoutError, OSError, FrameTooLarge)
"""How a connection goes. Anything else is a fault, and is raised."""


class Api:
    """`key` may be a function, which is asked for every request. Raises Refused INVALID_REQUEST: no address."""

    def __init__(self, url: str, key: str | Callable[[], str] | None) -> None:
        self._url = _address(url)
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
        async with self.request(method, path) as response:
            if response.status >= 400:
                raise await refusal(response)
            return await response.json()

    async def cancel(self, stream_id: str) -> str:
        """The stream's state after it. Raises as `call` does."""
        answer = await self.call("POST", f"/api/streams/{quote(stream_id, safe='')}/cancel")
        return str(answer.get("state", "cancelling"))

    def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: Any = None
    ) -> aiohttp.client._RequestContextManager:
        if self._session is None:
            raise RuntimeError("a client is used inside its `with` block")
        given = {**(headers or {}), **self._authorization()}
        return self._session.request(method, self._url + path, headers=given, json=body)

    async def socket(self) -> ClientConnection:
        """An open one. Raises Refused where the server itself said why not, and what `DROPPED` names."""
        url = f"ws{self._url.removeprefix('http')}/api/ws"
        try:
            return await connect(
                url, subprotocols=[SUBPROTOCOL], additional_headers=self._authorization(), compression=None, proxy=None,
                max_size=MAX_FRAME_BYTES, open_timeout=CONNECT_TIMEOUT_S, close_timeout=CLOSE_TIMEOUT_S,
                # A ping each beat; one that is not answered for two more makes three of silence.
                ping_interval=BEAT_S, ping_timeout=IDLE_TIMEOUT_S - BEAT_S,
            )  # fmt: skip
        except InvalidStatus as error:
            response = error.response
            problem = as_object(response.body or b"") or {}
            if "error_code" not in problem:
                raise  # of a proxy, say, that forbids them
            headers = response.headers
            raise refusal_of(problem, response.status_code, headers.get("Retry-After")) from None

    def _authorization(self) -> dict[str, str]:
        key = self._key() if callable(self._key) else self._key
        return {"Authorization": f"Bearer {key}"} if key else {}


async def refusal(response: aiohttp.ClientResponse) -> Refused:
    """The error of an answer that is none of events."""
    problem = as_object(await response.read()) or {}
    return refusal_of(problem, response.status, response.headers.get("Retry-After"))


def as_object(text: str | bytes | bytearray) -> dict[str, Any] | None:
    """None where it is none: of a proxy, say."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _address(url: str) -> str:
    """It, with the scheme in lower case."""
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts.geturl().rstrip("/")
    except ValueError:  # a port that is no number
        pass
    raise Refused("INVALID_REQUEST", f"the server's address is http://… or https://…, got {url[:80]!r}")
