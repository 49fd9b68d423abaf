"""The turn goes back as it came: within an answer, and between two answers to the same owner."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.workers.generation.play import Player, Stage
from tokenrelay.workers.conversation import Delta, Echo, Finish, ToolUse

ECHO = Echo("anthropic", "claude-x", [{"thinking": "t", "signature": "s"}, {"call": "c0"}])
SUM = ToolUse("c0", "calculator", {"expression": "6*7"})
WEATHER = ToolUse("call_0", "get_weather", {"city": "Oslo"})
NOW = ToolUse("call_1", "get_time", {})
STOP = Finish("stop", 1, 1, "m")
CALLED = Finish("tool_calls", 1, 1, "m", echo=ECHO)
OWN = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("get_weather", "get_time")
]


def test_within_an_answer_the_echo_stands_on_its_turn() -> None:
    async def scene() -> None:
        player = Player([Delta("a"), SUM, CALLED], [Delta("b"), STOP])
        stage = Stage(anthropic=player)
        await stage.told(stage.generation(enable_tools=True))
        assert [message.echo for message in player.heard[1].messages] == [None, ECHO, None]
        assert not stage.store.held  # nobody needs it after the answer

    asyncio.run(scene())


def history(*uses: ToolUse, **changes: Any) -> list[dict[str, Any]]:
    calls = [
        {
            "id": use.call_id,
            "type": "function",
            "function": {"name": use.name, "arguments": json.dumps(changes.get("arguments", use.arguments))},
        }
        for use in uses
    ]
    results = [{"role": "tool", "tool_call_id": use.call_id, "content": "x"} for use in uses]
    return [{"role": "user", "content": "?"}, {"role": "assistant", "content": "", "tool_calls": calls}, *results]


NEXT: list[tuple[str, list[dict[str, Any]], str, Echo | None]] = [
    ("as it was", history(WEATHER, NOW), "alice", ECHO),
    ("one call is missing", history(WEATHER), "alice", None),
    ("other arguments", history(WEATHER, NOW, arguments={"city": "Rome"}), "alice", None),
    ("another function of that id", history(ToolUse("call_0", "get_time", {}), NOW), "alice", None),
    ("another owner", history(WEATHER, NOW), "bob", None),
]


@pytest.mark.parametrize(("messages", "owner", "echo"), [row[1:] for row in NEXT], ids=[row[0] for row in NEXT])
def test_between_answers_it_comes_back_to_the_same_calls_of_the_same_owner(
    messages: list[dict[str, Any]], owner: str, echo: Echo | None
) -> None:
    async def scene() -> None:
        player = Player([Delta("a"), WEATHER, NOW, CALLED], [Delta("b"), STOP])
        stage = Stage(anthropic=player)
        await stage.told(stage.generation(tools=OWN))
        generation = stage.generation(message=None, messages=messages, tools=OWN, owner=owner)
        await stage.told(generation)
        assert [message.echo for message in player.heard[1].messages if message.tool_calls] == [echo]

    asyncio.run(scene())


def test_without_redis_the_answer_goes_on_without_it() -> None:
    async def scene() -> None:
        class Away:
            async def ask(self, *_: Any) -> None:
                raise ConnectionError

        stage = Stage(anthropic=Player([WEATHER, CALLED]))
        stage.resources.store = Away()
        events = await stage.told(stage.generation(message=None, messages=history(WEATHER), tools=OWN))
        assert events[-1]["finish_reason"] == "tool_calls"

    asyncio.run(scene())
