"""One stream over SSE: a request, its answer, its end. Knows one connection only; who calls again decides that."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Final
from urllib.parse import quote

import aiohttp

from tokenrelay_client import api
from tokenrelay_client.api import DROPPED, Api, NotOurs, as_object, raise_if_final, refusal, words_of
from tokenrelay_client.decoder import Decoder
from tokenrelay_client.transport import Dropped, Ended, Outcome, Reader, Request, Said, TransportName


class Sse:
    """A connection for each stream."""

    name: Final[TransportName] = "sse"

    def __init__(self, api: Api) -> None:
        self._api = api

    async def read(self, request: Request, reader: Reader) -> Outcome:
        """One connection, to its end, however it ends. Raises TokenrelayError: no second try can help."""
        was_open = False
        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout(api.OPEN_TIMEOUT_S):
                    response = await stack.enter_async_context(self._open(request))
                    if response.status == 204:
                        return Ended()
                    if response.status != 200:
                        return Said(await refusal(response))
                if response.content_type != "text/event-stream":
                    return Dropped(f"{response.url.origin()} answered with {response.content_type}, not with events")
                was_open = True
                reader.opened(response.headers.get("X-Stream-Id"))
                return await _pump(response, reader)
        except NotOurs as error:
            return Dropped(words_of(error), after_s=error.after_s)
        except DROPPED as error:
            raise_if_final(error)
            return Dropped(words_of(error), was_open=was_open)

    async def cancel(self, stream_id: str) -> None:
        """Raises TokenrelayError, and what `DROPPED` names."""
        await self._api.cancel(stream_id)

    def _open(self, request: Request) -> aiohttp.client._RequestContextManager:
        if request.stream_id is not None:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(request.after)}
            return self._api.request("GET", f"/api/streams/{quote(request.stream_id, safe='')}", headers)
        # JSON is named so that a refusal is plain JSON; the answer is events because the body asks for them.
        headers = {"Accept": "text/event-stream, application/json", "Idempotency-Key": request.idempotency_key}
        return self._api.request("POST", "/api/chat", headers, {**(request.body or {}), "stream": True})


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
            data = as_object(frame.data)
            if data is None:
                return Dropped("an event that is no object", was_open=True)
            reader.take(int(frame.event_id) if has_own else None, data)
            if data.get("done"):
                return Ended()
    return Dropped("the connection ended", was_open=True)
