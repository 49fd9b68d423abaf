"""A server that answers as it is told, over real sockets: for what a real one does only once in a blue moon."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, TypeAlias

from aiohttp import web

from protocol.codec import to_json
from protocol.sse import encode_frame, encode_retry

Fate: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
"""What becomes of one request."""

ID = "5f0c6f9e2d5b4c0f8a4be1d1a9d7c3e2"
RETRY_MS = 100
PATIENCE_S = 10.0


class Service:
    """`async with Service([fate, …]) as service: service.url`. The last fate is that of all further requests."""

    def __init__(self, fates: Iterable[Fate]) -> None:
        self._fates = list(fates)
        self.asked: list[tuple[str, str, Mapping[str, str]]] = []  # method, path, headers
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)

    async def __aenter__(self) -> Service:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        self.asked.append((request.method, request.path, request.headers.copy()))
        fate = self._fates.pop(0) if len(self._fates) > 1 else self._fates[0]
        return await fate(request)


def says(status: int, body: Any = None, headers: Mapping[str, str] | None = None) -> Fate:
    """One plain answer. `body`: an object, or text as it is."""

    async def answer(request: web.Request) -> web.StreamResponse:
        text = body if isinstance(body, str) else json.dumps(body)
        kind = "text/html" if isinstance(body, str) and not body.startswith("{") else "application/json"
        return web.Response(
            status=status, text=None if status == 204 else text, content_type=kind, headers=headers or {}
        )

    return answer


def streams(sse: bytes, *, each: int | None = None) -> Fate:
    """Events, then the connection ends; written in pieces of `each` bytes."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Stream-Id": ID})
        await response.prepare(request)
        body = encode_retry(RETRY_MS) + sse
        for start in range(0, len(body), each or len(body)):
            await response.write(body[start : start + (each or len(body))])
        return response

    return answer


def event(event_id: int, **data: Any) -> bytes:
    return encode_frame(to_json({"token": "", "done": False, **data}), event_id)


def answer_of(*tokens: str) -> bytes:
    """A whole answer: started, the tokens, the end."""
    started = event(1, status="started")
    end = event(len(tokens) + 2, done=True, finish_reason="stop", output_tokens=len(tokens))
    return b"".join([started, *(event(number, token=token) for number, token in enumerate(tokens, 2)), end])
