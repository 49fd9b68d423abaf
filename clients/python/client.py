"""The client: makes streams, and gives them what they share. Knows no wire and no state of a stream."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final

from clients.python.errors import Refused
from clients.python.sse import Http
from clients.python.stream import Stream
from protocol import cursor
from protocol.errors import TokenrelayError as BadCursor

PATIENCE_S: Final = 300.0


class Client:
    """One server, one pool of connections: `async with Client(url, key) as client: …`.

    `key` may be a function, which is asked for every request. `patience_s`: how long, in waits added up, a server is
    looked for that cannot be reached; `first_patience_s`: the same for one that has never answered (None: as long).
    """

    def __init__(
        self,
        url: str,
        key: str | Callable[[], str] | None = None,
        *,
        patience_s: float = PATIENCE_S,
        first_patience_s: float | None = None,
    ) -> None:
        self._http = Http(url, key)
        self._patience_s = patience_s
        self._first_patience_s = patience_s if first_patience_s is None else first_patience_s
        self._streams: set[Stream] = set()  # not over

    async def __aenter__(self) -> Client:
        self._http.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(stream.close() for stream in tuple(self._streams)))
        await self._http.close()

    def chat(self, body: str | Mapping[str, Any], *, idempotency_key: str | None = None) -> Stream:
        """Start a generation, once, however often the request has to be sent. `body` as in `POST /api/chat`; a text is
        its `message`."""
        asked = {"message": body} if isinstance(body, str) else dict(body)
        return self._add(asked, None, 0, idempotency_key or secrets.token_hex(16))

    def resume(self, stream_id: str, after: int | str | None = 0) -> Stream:
        """Read a generation that is there already, from the event after `after`; 0: from the start.

        Raises Refused INVALID_CURSOR.
        """
        try:
            known = cursor.parse(after)
        except BadCursor as error:
            raise Refused(error.code, error.message, details=error.fields) from None
        return self._add(None, stream_id, known, secrets.token_hex(16))

    async def models(self) -> list[dict[str, Any]]:
        """The rows of `GET /api/models`. Raises Refused, aiohttp.ClientError, TimeoutError."""
        answer = await self._http.call("GET", "/api/models")
        return list(answer["models"])

    async def stop(self, stream_id: str) -> str:
        """Stop a generation by its id; gives its state. Raises Refused, aiohttp.ClientError, TimeoutError."""
        return await self._http.cancel(stream_id)

    def _add(self, body: dict[str, Any] | None, stream_id: str | None, after: int, key: str) -> Stream:
        if not self._http.is_open:
            raise RuntimeError("a client is used inside its `with` block")
        stream = Stream(self._http, body, stream_id, after, key, self._patience_s, self._first_patience_s)
        self._streams.add(stream)
        stream.subscribe(lambda: self._streams.discard(stream) if stream.is_over else None)
        return stream
