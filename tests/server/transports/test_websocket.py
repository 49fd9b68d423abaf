"""A socket without a network: what it keeps, and what it lets go."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

from tests.stores import open_store
from tokenrelay.protocol.store.context import Context
from tokenrelay.protocol.wire import websocket
from tokenrelay.server.access.auth import Identity
from tokenrelay.server.edge import Edge
from tokenrelay.server.settings import Settings
from tokenrelay.server.transports.websocket import Socket


@pytest.mark.parametrize("text", [json.dumps({"type": "ping", "x": "a" * 10_000}), "a" * 10_000, "a" * 100_000])
def test_an_idle_socket_keeps_nothing_of_its_last_frame(text: str) -> None:
    async def scene() -> None:
        edge = Edge(Settings(), open_store("redis://127.0.0.1:1"))
        messages: list[dict[str, Any]] = [{"type": "websocket.receive", "text": text}]
        waits = asyncio.Event()
        before = sys.getrefcount(text) - 1  # that of the list

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            waits.set()
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Any) -> None: ...

        socket = Socket(edge, websocket.JSON, Identity("somebody", "nobody"), send, Context())
        reading = asyncio.create_task(socket.read(receive))
        await waits.wait()
        assert sys.getrefcount(text) == before
        reading.cancel()

    asyncio.run(scene())
