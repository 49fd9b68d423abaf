"""Calls to one server: its address, who is asking, a pool of connections. Knows no stream.

HTTP goes through aiohttp, WebSockets through the library `websockets`: of a handshake that was refused it gives the
answer's body, which says why, and its own pings find a dead peer.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import aiohttp
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from tokenrelay_client.decoder import FrameTooLarge
from tokenrelay_client.environment import Key, Proxy, header_of, key_or_default, proxy_for, url_or_default
from tokenrelay_client.errors import Refused, Unreachable, is_ours, refusal_of, seconds_of

BEAT_S: Final = 15.0
IDLE_TIMEOUT_S: Final = 3 * BEAT_S
"""Three heartbeats: a connection silent for so long is dead."""

CONNECT_TIMEOUT_S: Final = 5.0
OPEN_TIMEOUT_S: Final = 10.0
"""Until the head of an answer: it leaves the server before the model does anything."""

CLOSE_TIMEOUT_S: Final = 1.0
MAX_ADVICE_S: Final = 60.0
"""Of a proxy's `Retry-After`."""

SUBPROTOCOL: Final = Subprotocol("tokenrelay.v1.json")

MAX_FRAME_BYTES: Final = 8 * 1024 * 1024
"""An event has at most 1 MiB, and a frame ends with the event that takes it beyond 32 KiB; with room to spare."""


class NotOurs(Exception):
    """An answer that is not the server's: a proxy's error page, say. `after_s`: the wait that it asks for."""

    def __init__(self, message: str, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


DROPPED: Final = (aiohttp.ClientError, WebSocketException, TimeoutError, OSError, FrameTooLarge, NotOurs)
"""How a connection goes. Anything else is a fault, and is raised."""


class Api:
    """`key` may be a function, which is asked for every request. Raises Refused INVALID_REQUEST: no address."""

    def __init__(self, url: str | None, key: Key | None, proxy: Proxy = True) -> None:
        self.url: Final = url_or_default(url)
        self._key = key_or_default(key)
        self._proxy = proxy
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
        """The answer's JSON. Raises TokenrelayError, and what `DROPPED` names."""
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S), self.request(method, path) as response:
                if response.status >= 400:
                    raise await refusal(response)
                answer = as_object(await response.read())
        except DROPPED as error:
            raise_if_final(error)
            raise
        if answer is None:
            raise NotOurs(f"{self.url} answered {response.status} with what is no JSON object")
        return answer

    async def cancel(self, stream_id: str) -> str:
        """The stream's state after it. Raises as `call` does."""
        answer = await self.call("POST", f"/api/streams/{quote(stream_id, safe='')}/cancel")
        return str(answer.get("state", "cancelling"))

    def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: Any = None
    ) -> aiohttp.client._RequestContextManager:
        """Raises Refused INVALID_REQUEST: the key cannot be sent, or the proxy cannot be used."""
        if self._session is None:
            raise RuntimeError("a client is used inside its `with` block")
        given = {**(headers or {}), **header_of(self._key)}
        proxy = proxy_for(self.url, self._proxy)
        return self._session.request(method, self.url + path, headers=given, json=body, proxy=proxy)

    async def socket(self) -> ClientConnection:
        """An open one. Raises TokenrelayError where the server itself said why not, and what `DROPPED` names."""
        url = f"ws{self.url.removeprefix('http')}/api/ws"
        try:
            return await connect(
                url, subprotocols=[SUBPROTOCOL], additional_headers=header_of(self._key), compression=None,
                proxy=proxy_for(self.url, self._proxy), max_size=MAX_FRAME_BYTES,
                open_timeout=CONNECT_TIMEOUT_S, close_timeout=CLOSE_TIMEOUT_S,
                # A ping each beat; one that is not answered for two more makes three of silence.
                ping_interval=BEAT_S, ping_timeout=IDLE_TIMEOUT_S - BEAT_S,
            )  # fmt: skip
        except InvalidStatus as error:
            response = error.response
            problem = as_object(response.body or b"")
            if problem is None or not is_ours(problem):
                raise NotOurs(f"the WebSocket handshake was answered {response.status_code} by a stranger") from None
            headers = response.headers
            raise refusal_of(problem, response.status_code, headers.get("Retry-After")) from None
        except DROPPED as error:
            raise_if_final(error)
            raise


async def refusal(response: aiohttp.ClientResponse) -> Refused:
    """The error of an answer that is none of events. Raises NotOurs: only one with an `error_code` is the server's."""
    problem = as_object(await response.read())
    advice = response.headers.get("Retry-After")
    if problem is None or not is_ours(problem):
        after_s = seconds_of(advice)
        message = f"{response.url.origin()} answered {response.status}, and not as Tokenrelay does"
        raise NotOurs(message, None if after_s is None else min(after_s, MAX_ADVICE_S))
    return refusal_of(problem, response.status, advice)


def as_object(text: str | bytes | bytearray) -> dict[str, Any] | None:
    """None where it is none: of a proxy, say."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def words_of(error: BaseException) -> str:
    """What went wrong with a connection, for people."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = str(error)
    return text if isinstance(error, NotOurs) else f"{type(error).__name__}: {text}" if text else type(error).__name__


def raise_if_final(error: BaseException) -> None:
    """Raises Unreachable: what no second try can mend."""
    if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
        raise Refused("INVALID_REQUEST", f"the server's address is none: {error}") from error
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        message = f"the server's certificate is not trusted: {error} (SSL_CERT_FILE names other authorities)"
        raise Unreachable(message, retryable=False) from error
