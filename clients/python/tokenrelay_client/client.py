"""The client: makes streams, and gives them what they share. Knows no wire and no state of a stream."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping
from typing import Any, Unpack

from tokenrelay_client import cursor
from tokenrelay_client.api import Api
from tokenrelay_client.environment import Key
from tokenrelay_client.errors import Refused
from tokenrelay_client.options import FIRST_PATIENCE_S, PATIENCE_S, STOP_TIMEOUT_S, Options
from tokenrelay_client.sockets import Sockets
from tokenrelay_client.sse import Sse
from tokenrelay_client.stream import Stream, Surroundings
from tokenrelay_client.transport import CHOICES, Choice, Request, Transport, TransportName


class Client:
    """One server, one pool of connections, one socket: `async with Client(url, key) as client: …`.

    Without `url` the server is `TOKENRELAY_URL`, else http://127.0.0.1:8000; without `key` the key is
    `TOKENRELAY_API_KEY`, else `TOKENRELAY_KEY`. `key` may be a function, which is asked for every request. For the rest
    see `Options`. Raises Refused INVALID_REQUEST: no such transport, or no address.
    """

    def __init__(self, url: str | None = None, key: Key | None = None, **options: Unpack[Options]) -> None:
        self._api = Api(url, key, options.get("proxy", True))
        self._sse, self._sockets = Sse(self._api), Sockets(self._api)
        self._preferred: Choice = options.get("transport", "auto")
        self._check(self._preferred)  # said here, not at the first question
        self._patience_s = options.get("patience_s", PATIENCE_S)
        self._first_patience_s = options.get("first_patience_s", options.get("patience_s"))
        self._stop_timeout_s = options.get("stop_timeout_s", STOP_TIMEOUT_S)
        self._streams: set[Stream] = set()  # not over
        self._stops: set[asyncio.Task[None]] = set()  # not known to the server yet
        self._stopped: set[Stream] = set()  # whose stops those are
        self._around = Surroundings(self._named, (self._sockets, self._sse), self._keep, self._hint)

    async def __aenter__(self) -> Client:
        self._api.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        streams = tuple(self._streams)
        try:
            await asyncio.gather(*(stream.close() for stream in streams))
            if self._stops:
                await asyncio.wait(tuple(self._stops), timeout=self._stop_timeout_s)
        finally:
            for task in tuple(self._stops):
                task.cancel()
            await asyncio.gather(*(stream.abandon() for stream in {*streams, *self._stopped}))
            await self._sockets.close()
            await self._api.close()

    def chat(
        self, body: str | Mapping[str, Any], *, idempotency_key: str | None = None, transport: Choice | None = None
    ) -> Stream:
        """Start a generation, once, however often the request has to be sent. `body` as in `POST /api/chat`; a text is
        its `message`. Raises TypeError, ValueError: this is no JSON."""
        # A copy of what JSON makes of it: what cannot be sent is the caller's fault, and is said here and now.
        asked = {"message": body} if isinstance(body, str) else json.loads(json.dumps(dict(body), allow_nan=False))
        is_new = idempotency_key is None
        return self._add(Request(None, asked, idempotency_key or secrets.token_hex(16), 0), transport, is_new)

    def resume(self, stream_id: str, after: int | str | None = 0, *, transport: Choice | None = None) -> Stream:
        """Read a generation that is there already, from the event after `after`; 0: from the start.

        Raises Refused INVALID_CURSOR.
        """
        return self._add(Request(stream_id, None, secrets.token_hex(16), cursor.parse(after)), transport, False)

    async def models(self) -> list[dict[str, Any]]:
        """The rows of `GET /api/models`. Raises TokenrelayError, aiohttp.ClientError, TimeoutError."""
        answer = await self._api.call("GET", "/api/models")
        return list(answer["models"])

    async def stop(self, stream_id: str) -> str:
        """Stop a generation by its id; gives its state. Raises TokenrelayError, aiohttp.ClientError, TimeoutError."""
        return await self._api.cancel(stream_id)

    def _add(self, asked: Request, choice: Choice | None, is_new: bool) -> Stream:
        if not self._api.is_open:
            raise RuntimeError("a client is used inside its `with` block")
        first_s = self._first_patience_s
        if first_s is None:
            first_s = FIRST_PATIENCE_S if is_new else self._patience_s
        transports = self._transports(choice or self._preferred)
        stream = Stream(asked, transports, self._around, self._patience_s, first_s)
        self._streams.add(stream)
        stream.subscribe(lambda: self._streams.discard(stream) if stream.is_over else None)
        return stream

    def _keep(self, stream: Stream, stopping: asyncio.Task[None]) -> None:
        """A stop under way outlives its stream's reader."""

        def forget(_: object) -> None:
            self._stops.discard(stopping)
            self._stopped.discard(stream)

        self._stops.add(stopping)
        self._stopped.add(stream)
        stopping.add_done_callback(forget)

    @property
    def _hint(self) -> str:
        return f". Is {self._api.url} the server's address (TOKENRELAY_URL)?"

    def _transports(self, choice: Choice) -> list[Transport]:
        """Those that may be used, the one to try first before the other."""
        if choice != "auto":
            return [self._named(choice)]
        return [self._sse, self._sockets] if self._sockets.is_doubtful else [self._sockets, self._sse]

    def _named(self, name: TransportName) -> Transport:
        self._check(name)
        return self._sse if name == "sse" else self._sockets

    @staticmethod
    def _check(choice: Choice) -> None:
        if choice not in CHOICES:
            raise Refused("INVALID_REQUEST", f"a transport is one of {', '.join(CHOICES)}, got {choice!r}")
