"""A model that does what a test says, and one generation over it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any, TypeAlias

from tests.workers.chain import OURS, Memory
from tokenrelay.protocol.runtime.tracing import Tracing
from tokenrelay.protocol.store import entries
from tokenrelay.protocol.store.scripts import Claim
from tokenrelay.protocol.wire import event_json, request
from tokenrelay.workers.circuit import Circuits
from tokenrelay.workers.conversation import ModelRequest, Piece
from tokenrelay.workers.generation.generation import Generation
from tokenrelay.workers.metrics import Metrics
from tokenrelay.workers.providers.base import ProviderError
from tokenrelay.workers.settings import Settings
from tokenrelay.workers.tools.registry import Toolbox

Step: TypeAlias = Piece | float | ProviderError | None
"""A piece, a pause in seconds, a failure; None: silence for ever."""


NO_WRITER = SimpleNamespace(mark=lambda _: None, ended=lambda _: None)


class Player:
    """Each round (or each attempt) plays the next of `rounds`; the last one again and again."""

    name = "Player"

    def __init__(self, *rounds: Sequence[Step]) -> None:
        self.rounds = rounds
        self.heard: list[ModelRequest] = []

    def left_out(self, asked: ModelRequest) -> tuple[str, ...]:
        return ()

    async def stream(self, asked: ModelRequest) -> AsyncIterator[Piece]:
        self.heard.append(asked)
        for step in self.rounds[min(len(self.heard), len(self.rounds)) - 1]:
            if isinstance(step, float):
                await asyncio.sleep(step)
            elif isinstance(step, ProviderError):
                raise step
            elif step is None:
                await asyncio.Event().wait()
            else:
                yield step

    async def aclose(self) -> None:
        """Holds nothing."""


class Stage:
    """What generations use; `store` and `metrics` outlive each of them."""

    def __init__(self, settings: Settings | None = None, **players: Player) -> None:
        self.store = Memory()
        self.metrics = Metrics()
        self.circuits = Circuits(OURS.routing.health, "w", 1.0)
        self.resources: Any = SimpleNamespace(
            settings=settings or Settings(), writer=NO_WRITER, catalogue=OURS,
            providers=players, tools=Toolbox(), circuits=self.circuits, store=self.store, metrics=self.metrics,
            tracing=Tracing(),
        )  # fmt: skip
        self.times: list[float] = []  # when each event was told, from the start

    def generation(self, last_id: int = 0, owner: str = "alice", **fields: Any) -> Generation:
        asked = request.from_object({"message": "What is six times seven?", "model": "claude", **fields})
        claim = Claim(
            "stream-1", 1, last_id, 0, asked.model or "neuroswitch", "continue", request.pack(asked), owner=owner
        )
        return Generation(self.resources, claim, time.monotonic())

    async def told(self, generation: Generation, ticks: bool = True) -> list[dict[str, Any]]:
        """The events of one generation, as a client gets their data."""
        began_at = time.monotonic()
        raws: list[bytes] = []

        def append(raw: bytes) -> None:
            raws.append(raw)
            self.times.append(time.monotonic() - began_at)

        log: Any = generation.log
        log.append = append
        log.end = lambda raw, _: append(raw)
        running = asyncio.create_task(generation.run())
        while not running.done():
            await asyncio.wait([running], timeout=0.05)
            if ticks:
                generation.check(time.monotonic())
        await running
        return [event_json.data_of(entries.unpack_entry(raw), "s") for raw in raws]


def play(*rounds: Sequence[Step], settings: Settings | None = None, **fields: Any) -> list[dict[str, Any]]:
    """What one generation over one model tells."""

    async def scene() -> list[dict[str, Any]]:
        stage = Stage(settings, anthropic=Player(*rounds))
        return await stage.told(stage.generation(**fields))

    return asyncio.run(asyncio.wait_for(scene(), 30))


def shortly(events: Sequence[dict[str, Any]]) -> list[str]:
    """Each event in a word or its text."""
    return [_word(event) for event in events]


def _word(event: dict[str, Any]) -> str:
    for name in ("status", "thinking", "tool_input_name", "tool_input_delta", "tool_result", "tool_name", "error_code"):
        if name in event:
            return str(event[name])
    return str(event["token"]) or str(event.get("finish_reason", ""))
