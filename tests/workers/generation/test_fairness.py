"""A model that writes without pause leaves turns of the event loop to everybody else: leases are renewed on it."""

from __future__ import annotations

import asyncio

import pytest

from tests.workers.generation.play import Player, Stage, Step
from tokenrelay.workers.conversation import Delta, Finish, Progress, Thinking, ToolInput
from tokenrelay.workers.generation.attempts import PIECES_A_TURN

PIECES = 3_000


@pytest.mark.parametrize("piece", [Delta("a"), Thinking("hm"), ToolInput("c0", "", "{"), Progress()])
@pytest.mark.parametrize("begins", [[], [Delta("a")]], ids=["before the first output", "after it"])
def test_whatever_it_writes_others_get_their_turns(piece: Step, begins: list[Step]) -> None:
    async def scene() -> int:
        stage = Stage(anthropic=Player([*begins, *[piece] * PIECES, Finish("stop", 1, 1, "m")]))
        running = asyncio.create_task(stage.generation().run())
        turns = 0
        while not running.done():
            await asyncio.sleep(0)
            turns += 1
        return turns

    assert asyncio.run(scene()) >= PIECES // PIECES_A_TURN
