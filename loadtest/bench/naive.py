"""The naive build, to compare with: generation in the web process, one Redis subscription per viewer. The obvious
first version; it loses tokens on every drop, which is not measured here."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import redis.asyncio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tokenrelay.protocol.models import scripted

END = "[end]"
SSE = "text/event-stream"


class Naive:
    """The whole server."""

    def __init__(self, redis_url: str) -> None:
        self._redis: Any = redis.asyncio.Redis.from_url(redis_url)
        self._tasks: set[asyncio.Task[None]] = set()

    async def chat(self, request: Request) -> Response:
        model = (await request.json())["model"]
        stream_id = uuid.uuid4().hex
        pubsub = await self._subscribed(stream_id)
        task = asyncio.create_task(self._generate(stream_id, model))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return StreamingResponse(self._events(pubsub), media_type=SSE, headers={"X-Stream-Id": stream_id})

    async def join(self, request: Request) -> Response:
        pubsub = await self._subscribed(request.path_params["stream_id"])
        return StreamingResponse(self._events(pubsub), media_type=SSE)

    async def _generate(self, stream_id: str, model: str) -> None:
        spec = scripted.parse(model)
        await asyncio.sleep(spec.first_ms / 1000)
        for number in range(spec.tokens):
            if number == spec.stall_after:
                await asyncio.sleep(3600)
            event = {"token": f"w{number} ", "done": False, "model": model, "timestamp": datetime.now(UTC).isoformat()}
            await self._redis.publish(stream_id, json.dumps(event))
            if spec.interval_ms:
                await asyncio.sleep(spec.interval_ms / 1000)
        await self._redis.publish(stream_id, json.dumps({"token": "", "done": True}))
        await self._redis.publish(stream_id, END)

    async def _subscribed(self, stream_id: str) -> Any:
        pubsub = self._redis.pubsub(ignore_subscribe_messages=True)
        await pubsub.subscribe(stream_id)
        return pubsub

    async def _events(self, pubsub: Any) -> AsyncIterator[str]:
        try:
            async for message in pubsub.listen():
                if message["data"] == END.encode():
                    return
                yield f"data: {message['data'].decode()}\n\n"
        finally:
            await pubsub.aclose()


async def ready(_: Request) -> Response:
    return JSONResponse({"workers": 1})


def main() -> None:
    naive = Naive(os.environ["TOKENRELAY_REDIS_URL"])
    routes = [
        Route("/api/chat", naive.chat, methods=["POST"]),
        Route("/api/streams/{stream_id}", naive.join),
        Route("/readyz", ready),
    ]
    uvicorn.run(Starlette(routes=routes), port=int(sys.argv[1]), log_level="warning", backlog=2048)


if __name__ == "__main__":
    main()
