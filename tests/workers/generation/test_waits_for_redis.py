"""A model that waits because Redis is away is not a model that has fallen silent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from tests.workers.generation.play import NO_WRITER
from tests.workers.generation.test_tool_calls import OURS
from tokenrelay.protocol.runtime.tracing import Tracing
from tokenrelay.protocol.store import entries
from tokenrelay.protocol.store.scripts import AppendReply, Claim
from tokenrelay.protocol.wire import request
from tokenrelay.workers.circuit import Circuits
from tokenrelay.workers.conversation import Delta, Finish, ModelRequest, Piece
from tokenrelay.workers.generation.generation import Generation
from tokenrelay.workers.metrics import Metrics
from tokenrelay.workers.settings import Settings
from tokenrelay.workers.tools.registry import Toolbox

PIECES = 40
PATIENCE_S = 10


class Writes:
    """A model that has everything to say at once."""

    name = "Writes"

    def left_out(self, asked: ModelRequest) -> tuple[str, ...]:
        return ()

    async def stream(self, asked: ModelRequest) -> AsyncIterator[Piece]:
        for _ in range(PIECES):
            yield Delta("x" * 4_000)
        yield Finish("stop", 1, PIECES, "m")

    async def aclose(self) -> None:
        """Holds nothing."""


def test_a_full_buffer_is_no_silence_of_the_model() -> None:
    settings = Settings(buffer_bytes=65_536, between_tokens_timeout_s=5)
    resources: Any = SimpleNamespace(
        settings=settings, writer=NO_WRITER, catalogue=OURS, store=None, metrics=Metrics(),
        tracing=Tracing(),
        providers={"anthropic": Writes()}, tools=Toolbox(), circuits=Circuits(OURS.routing.health, "w", 1.0),
    )  # fmt: skip

    async def scene() -> None:
        asked = request.from_object({"message": "x", "model": "claude"})
        generation = Generation(
            resources, Claim("s", 1, 0, 0, "claude", "continue", request.pack(asked)), time.monotonic()
        )
        running = asyncio.create_task(generation.run())
        while generation.log.unacked_bytes <= settings.buffer_bytes:
            await asyncio.sleep(0)
        generation.check(time.monotonic() + settings.between_tokens_timeout_s + 1)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not running.done()
        while not running.done():  # Redis is back
            generation.log.take_reply(AppendReply("ok", generation.log.last_id, 1, cancel_wanted=False))
            await asyncio.sleep(0)
        written = [entries.unpack(raw) for raw in generation.log._entries]
        assert len(written) == 1 + PIECES + 1
        assert type(written[-1]).__name__ == "Completion"

    asyncio.run(asyncio.wait_for(scene(), PATIENCE_S))
