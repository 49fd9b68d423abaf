"""A server that answers as it is told, over real sockets: for what a real one does only once in a blue moon."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, TypeAlias

from aiohttp import web
from tokenrelay_client import Client, Stream

from tokenrelay.protocol.wire.event_json import to_json
from tokenrelay.protocol.wire.sse import encode_frame, encode_retry

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


def talks(*answers: str | list[str], close: int | None = None, heard: list[dict[str, Any]] | None = None) -> Fate:
    """A WebSocket: what it says to each message that starts or resumes, one frame or several; `REF` in it is that of
    the message. After the last answer it closes with `close`, or listens on; `heard` fills with what clients say."""

    async def answer(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=["tokenrelay.v1.json"])
        await socket.prepare(request)
        waiting = list(answers)
        async for frame in socket:
            message = json.loads(frame.data)
            if heard is not None:
                heard.append(message)
            if message["type"] == "ping":
                await socket.send_json({"type": "pong", "ref": message.get("ref")})
            if message["type"] in ("start", "resume") and waiting:
                said = waiting.pop(0)
                for text in [said] if isinstance(said, str) else said:
                    await socket.send_str(text.replace("REF", str(message["ref"])))
                if not waiting and close is not None:
                    await socket.close(code=close)
        return socket

    return answer


STARTED = f'{{"type": "started", "ref": REF, "stream_id": "{ID}"}}'
RESTART = 1012
OVER = f'{{"type": "started", "ref": REF, "stream_id": "{ID}", "done": true}}'
COME_BACK = '{"type": "reconnect", "after_ms": 1}'


def told(event_id: int | None, **data: Any) -> str:
    """An event as a message."""
    return json.dumps({"type": "event", "stream_id": ID, "id": event_id, "data": {"token": "", "done": False, **data}})


def told_all(*tokens: str) -> list[str]:
    """What a socket says of a whole answer, a message a frame."""
    end = told(len(tokens) + 2, done=True, finish_reason="stop", output_tokens=len(tokens))
    events = [told(number, token=token) for number, token in enumerate(tokens, 2)]
    return [STARTED, told(1, status="started"), *events, end]


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


def play(scene: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await scene

    asyncio.run(bounded())


async def some(stream: Stream, last: int) -> None:
    """Until the event of that id has come."""
    while stream.last_event_id < last:
        changed = asyncio.Event()
        over = stream.subscribe(changed.set)
        await changed.wait()
        over()


def socketed(service: Service) -> Client:
    return Client(service.url, transport="websocket")
