"""Answers as async iterators that survive a dropped connection; refuses to know how they are shown.

One `Stream` is one generation. It is started once, however often the request has to be sent (Idempotency-Key), and read
once, however many connections that takes (Last-Event-ID).
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any, Final, TypeAlias

import aiohttp

from protocol.errors import TABLE
from protocol.sse import Decoder, FrameTooLarge

Event: TypeAlias = tuple[int | None, dict[str, Any]]
"""An event's id and its object. The id is None for what is not in the log: the edge's own first word."""

IDLE_TIMEOUT_S: Final = 45.0
"""Three heartbeats of 15 s: a connection silent for so long is dead."""

CONNECT_TIMEOUT_S: Final = 10.0
FIRST_PATIENCE_S: Final = 5.0
"""How long a server is looked for that has never answered: the address is probably wrong."""

PATIENCE_S: Final = 120.0
"""How long one that has answered is waited for, counted from its last word."""

RETRY_S: Final = 0.5
FIRST_RETRY_S: Final = 1.0
MAX_RETRY_S: Final = 15.0
MAX_REFUSALS: Final = 5
"""How often a request that is refused for the moment (429, 503) is sent again."""

_DROPPED: Final = (aiohttp.ClientError, TimeoutError, OSError, FrameTooLarge)


class Refused(Exception):
    """The server said no, and asking again would not help. `code` is a row of the error table where there is one."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Unreachable(Exception):
    """No server for longer than the patience; what had come has been given, and `Stream.last_id` says how far."""


class Client:
    """One server, one connection pool. `async with Client(url, key) as client: …`"""

    def __init__(self, url: str, key: str | None = None) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._session: aiohttp.ClientSession | None = None  # None outside the block

    async def __aenter__(self) -> Client:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=IDLE_TIMEOUT_S)
        # No limit: a stream holds its connection as long as it lasts, and the cancel that ends it needs one more.
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=connector, headers=self._headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    def chat(self, body: Mapping[str, Any], on_lost: Callable[[float], None] | None = None) -> Stream:
        """A generation, started when it is first read. `body` as in `POST /api/chat`; `stream` is added.

        `on_lost(seconds)` is called before each pause that precedes another try.
        """
        return Stream(self, {**body, "stream": True}, None, 0, on_lost)

    def resume(self, stream_id: str, after: int = 0, on_lost: Callable[[float], None] | None = None) -> Stream:
        """A generation that is there already, from the event after `after`."""
        return Stream(self, None, stream_id, after, on_lost)

    def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: Any = None
    ) -> aiohttp.client._RequestContextManager:
        if self._session is None:
            raise RuntimeError("a client is used inside `async with`")
        return self._session.request(method, self._url + path, headers=headers, json=body)


class Stream:
    """One generation being read. Iterate it once; `cancel` at any time, also before it has an id."""

    def __init__(
        self,
        client: Client,
        body: Mapping[str, Any] | None,
        stream_id: str | None,
        after: int,
        on_lost: Callable[[float], None] | None,
    ) -> None:
        self._client = client
        self._body = body  # None for one that is resumed
        self._key = secrets.token_hex(16)
        self._on_lost = on_lost
        self._retry_s = RETRY_S  # the server's own `retry:` once it came
        self._heard_at: float | None = None  # by the monotonic clock; None until the server has answered
        self._began_at = time.monotonic()
        self._refusals = 0  # of those that may pass
        self._wants_stop = False
        self._cancelling: asyncio.Task[None] | None = None
        self.stream_id = stream_id  # None until the server has said it
        self.last_id = after
        self.has_ended = False

    def __repr__(self) -> str:
        return f"<Stream {self.stream_id} at {self.last_id}{' ended' if self.has_ended else ''}>"

    async def __aiter__(self) -> AsyncGenerator[Event, None]:
        """Every event after the cursor, once, in order; ends after the one with `done`.

        Raises Refused, Unreachable. Wrap it in `contextlib.aclosing` to leave early.
        """
        failures = 0
        try:
            while not self.has_ended:
                before, advice_s = self.last_id, None
                try:
                    async with self._open() as response:
                        self._heard_at = time.monotonic()
                        if response.status == 200:
                            async for event in self._read(response):
                                yield event
                        else:
                            advice_s = await self._refused(response)
                except _DROPPED as error:
                    self._must_have_patience(error)
                failures = 0 if self.last_id != before else failures
                await self._pause(self._backoff_s(failures) if advice_s is None else advice_s)
                failures += 1
        finally:
            if self._cancelling is not None:
                self._cancelling.cancel()

    async def cancel(self) -> None:
        """Stop the generation for good. The stream then ends by its own last event.

        Returns once the server knows, or at once while the start is not answered yet: it is then told as soon as it is.
        """
        self._wants_stop = True
        failures = 0
        while self.stream_id is not None and not self.has_ended:
            try:
                async with self._client.request("POST", f"/api/streams/{self.stream_id}/cancel") as response:
                    if response.status < 500 and response.status != 429:
                        return
            except _DROPPED:
                pass  # the server is away; the wish stands
            await asyncio.sleep(self._backoff_s(failures))
            failures += 1

    # -- one connection ------------------------------------------------------------------------------------------------

    def _open(self) -> aiohttp.client._RequestContextManager:
        if self.stream_id is not None:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(self.last_id)}
            return self._client.request("GET", f"/api/streams/{self.stream_id}", headers)
        # JSON is named so that a refusal is plain JSON; the answer is events because the body asks for them.
        headers = {"Accept": "text/event-stream, application/json", "Idempotency-Key": self._key}
        return self._client.request("POST", "/api/chat", headers, self._body)

    async def _read(self, response: aiohttp.ClientResponse) -> AsyncIterator[Event]:
        self._learn_id(response.headers.get("X-Stream-Id"))
        decoder = Decoder()
        last = ""
        while chunk := await response.content.readany():
            self._heard_at = time.monotonic()
            for frame in decoder.feed(chunk):
                # An id persists on a connection (WHATWG); an event has its own when it is another than the last.
                event_id = int(frame.event_id) if frame.event_id != last else None
                last = frame.event_id
                self.last_id = event_id or self.last_id
                data = json.loads(frame.data)
                if data["done"]:
                    self.has_ended = True
                    yield event_id, data
                    return
                yield event_id, data
            if decoder.retry_ms is not None:
                self._retry_s = decoder.retry_ms / 1000

    def _learn_id(self, stream_id: str | None) -> None:
        if stream_id is None or self.stream_id is not None:
            return
        self.stream_id = stream_id
        if self._wants_stop:
            self._cancelling = asyncio.create_task(self.cancel())

    async def _refused(self, response: aiohttp.ClientResponse) -> float | None:
        """Seconds to wait where it may pass (None: ours to choose). Raises Refused where it will not."""
        if response.status == 204:
            self.has_ended = True
            return None
        problem = await _problem(response)
        code = str(problem.get("error_code", "INTERNAL_ERROR"))
        may_pass = TABLE[code].retryable if code in TABLE else response.status >= 500
        # A model that no worker offers (`field`) is not there a second later either; a log that is short of its tail
        # after a failover (CURSOR_AHEAD) is whole again as soon as the worker has written it anew.
        may_pass = (may_pass and problem.get("field") != "model") or code == "CURSOR_AHEAD"
        # A generation that is there goes on without us: nothing is lost by asking for it as long as it takes.
        if self.stream_id is None or response.status < 500:
            self._refusals += 1
        if not may_pass or self._refusals > MAX_REFUSALS or (self._wants_stop and self.stream_id is None):
            raise Refused(response.status, code, str(problem.get("error", f"the server answered {response.status}")))
        advice = problem.get("retry_after", response.headers.get("Retry-After"))
        try:
            return None if advice is None else float(advice)
        except ValueError:
            return None  # a date, or a proxy's own idea

    # -- between connections -------------------------------------------------------------------------------------------

    def _must_have_patience(self, error: Exception) -> None:
        since, patience_s = (
            (self._began_at, FIRST_PATIENCE_S) if self._heard_at is None else (self._heard_at, PATIENCE_S)
        )
        if time.monotonic() - since > patience_s:
            raise Unreachable(f"no answer for {patience_s:.0f} s ({type(error).__name__})") from error

    def _backoff_s(self, failures: int) -> float:
        """The server's own `retry:` at first, drawn anew for every connection; then doubled, spread, capped."""
        most_s = FIRST_RETRY_S if self._heard_at is None else MAX_RETRY_S
        spread_s = random.uniform(0, min(most_s, self._retry_s * 2.0 ** min(failures, 10)))  # noqa: S311  no secret
        return max(self._retry_s, spread_s)

    async def _pause(self, seconds: float) -> None:
        if self.has_ended:
            return
        if self._on_lost is not None:
            self._on_lost(seconds)
        await asyncio.sleep(seconds)


async def _problem(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """The error object; empty where the answer is none of ours (a proxy's page)."""
    try:
        value = json.loads(await response.read())
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
