"""The client: makes streams, and gives them what they share. Knows no wire and no state of a stream."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final

from tokenrelay.protocol.errors import TokenrelayError as BadCursor
from tokenrelay.protocol.wire import cursor
from tokenrelay_client.api import Api
from tokenrelay_client.errors import Refused
from tokenrelay_client.sockets import Sockets
from tokenrelay_client.sse import Sse
from tokenrelay_client.stream import Stream
from tokenrelay_client.transport import CHOICES, Choice, Request, Transport, TransportName

PATIENCE_S: Final = 300.0


class Client:
    """One server, one pool of connections, one socket: `async with Client(url, key) as client: …`.

    `key` may be a function, which is asked for every request. `transport`: `sse`, a connection for each stream;
    `websocket`, one for all; `auto`, the socket, and the other one where a connection breaks. `patience_s`: how long,
    in waits added up, a server is looked for that cannot be reached; `first_patience_s`: the same for one that has
    never answered (None: as long).
    Raises Refused INVALID_REQUEST: no such transport, or no address.
    """

    def __init__(
        self,
        url: str,
        key: str | Callable[[], str] | None = None,
        *,
        transport: Choice = "auto",
        patience_s: float = PATIENCE_S,
        first_patience_s: float | None = None,
    ) -> None:
        self._api = Api(url, key)
        self._sse, self._sockets = Sse(self._api), Sockets(self._api)
        self._preferred = transport
        self._transports(transport)  # a wrong name is said here, not at the first question
        self._patience_s = patience_s
        self._first_patience_s = patience_s if first_patience_s is None else first_patience_s
        self._streams: set[Stream] = set()  # not over

    async def __aenter__(self) -> Client:
        self._api.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(stream.close() for stream in tuple(self._streams)))
        await self._sockets.close()
        await self._api.close()

    def chat(
        self, body: str | Mapping[str, Any], *, idempotency_key: str | None = None, transport: Choice | None = None
    ) -> Stream:
        """Start a generation, once, however often the request has to be sent. `body` as in `POST /api/chat`; a text is
        its `message`. Raises TypeError, ValueError: this is no JSON."""
        # A copy of what JSON makes of it: what cannot be sent is the caller's fault, and is said here and now.
        asked = {"message": body} if isinstance(body, str) else json.loads(json.dumps(dict(body), allow_nan=False))
        return self._add(Request(None, asked, idempotency_key or secrets.token_hex(16), 0), transport)

    def resume(self, stream_id: str, after: int | str | None = 0, *, transport: Choice | None = None) -> Stream:
        """Read a generation that is there already, from the event after `after`; 0: from the start.

        Raises Refused INVALID_CURSOR.
        """
        try:
            known = cursor.parse(after)
        except BadCursor as error:
            raise Refused(error.code, error.message, details=error.fields) from None
        return self._add(Request(stream_id, None, secrets.token_hex(16), known), transport)

    async def models(self) -> list[dict[str, Any]]:
        """The rows of `GET /api/models`. Raises Refused, aiohttp.ClientError, TimeoutError."""
        answer = await self._api.call("GET", "/api/models")
        return list(answer["models"])

    async def stop(self, stream_id: str) -> str:
        """Stop a generation by its id; gives its state. Raises Refused, aiohttp.ClientError, TimeoutError."""
        return await self._api.cancel(stream_id)

    def _add(self, asked: Request, choice: Choice | None) -> Stream:
        if not self._api.is_open:
            raise RuntimeError("a client is used inside its `with` block")
        transports = self._transports(choice or self._preferred)
        stream = Stream(asked, transports, self._transport, self._patience_s, self._first_patience_s)
        self._streams.add(stream)
        stream.subscribe(lambda: self._streams.discard(stream) if stream.is_over else None)
        return stream

    def _transports(self, choice: Choice) -> list[Transport]:
        """Those that may be used, the one to try first before the other."""
        if choice != "auto":
            return [self._transport(choice)]
        return [self._sse, self._sockets] if self._sockets.is_doubtful else [self._sockets, self._sse]

    def _transport(self, name: TransportName) -> Transport:
        match name:
            case "sse":
                return self._sse
            case "websocket":
                return self._sockets
            case _:
                raise Refused("INVALID_REQUEST", f"a transport is one of {', '.join(CHOICES)}, got {name!r}")
