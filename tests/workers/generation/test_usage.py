"""What an answer used and cost: on every end, over all rounds, with the round under way estimated."""

from __future__ import annotations

import asyncio

import pytest

from tests.workers.generation.play import Player, Stage, play
from tokenrelay.protocol.models.catalogue import Choice, Model, Price
from tokenrelay.workers.conversation import Delta, Finish, Thinking, ToolUse, Usage
from tokenrelay.workers.generation.usage import cost_usd
from tokenrelay.workers.providers.base import ProviderError

SUM = ToolUse("c0", "calculator", {"expression": "6*7"})
FIRST = Finish("tool_calls", 100, 20, "m", cached_input_tokens=60, reasoning_tokens=7)
SECOND = Finish("stop", 150, 10, "m", cached_input_tokens=90, cache_write_tokens=5)
USAGE = {
    "input_tokens": 250,
    "output_tokens": 30,
    "total_tokens": 280,
    "cached_input_tokens": 150,
    "cache_write_tokens": 5,
    "reasoning_tokens": 7,
}


def test_rounds_are_summed_and_what_nobody_said_is_left_out() -> None:
    end = play([SUM, FIRST], [Delta("42"), SECOND], enable_tools=True)[-1]
    assert end["usage"] == USAGE
    assert (end["input_tokens"], end["output_tokens"]) == (250, 30)
    assert end["cost_usd"] > 0
    plain = play([Delta("a"), Finish("stop", 3, 5, "m")])[-1]
    assert plain["usage"] == {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8}


def test_an_error_tells_what_was_used_before_it() -> None:
    broken = ProviderError("it broke", retryable=True)
    end = play([SUM, FIRST], [Delta("4"), Delta("2"), broken], enable_tools=True)[-1]
    assert end["error_code"] == "PROVIDER_ERROR"
    assert end["usage"]["output_tokens"] == 22  # the round under way: two pieces
    assert end["usage"]["input_tokens"] > 100
    assert end["cost_usd"] > 0


def test_a_stop_tells_it_too_and_thinking_counts() -> None:
    async def scene() -> None:
        stage = Stage(anthropic=Player([Thinking("hm"), Thinking("so"), None]))
        generation = stage.generation()
        asyncio.get_running_loop().call_later(0.1, generation.stop, "cancel")
        end = (await stage.told(generation))[-1]
        assert end["finish_reason"] == "cancelled"
        assert end["usage"]["output_tokens"] == end["output_tokens"] == 2
        assert end["usage"]["input_tokens"] == end["input_tokens"] > 0

    asyncio.run(scene())


def test_where_nobody_worked_nothing_is_told_to_have_been_used() -> None:
    end = play([ProviderError("no", retryable=False)])[-1]
    assert "usage" not in end
    assert "cost_usd" not in end


def row(price: Price, upstream: str = "up") -> Choice:
    return Choice(Model("m", "P", "anthropic", "up", price=price), upstream)


COSTS = [
    (row(Price(2, 10)), Usage(1_000_000, 100_000), 3.0),
    (row(Price(2, 10)), Usage(1_000_000, 0, cached_input_tokens=500_000), 2.0),  # no price of its own: as input
    (row(Price(2, 10, 0.2, 2.5)), Usage(1_000_000, 0, cached_input_tokens=500_000), 1.1),
    (row(Price(2, 10, 0.2, 2.5)), Usage(1_000_000, 0, 500_000, 100_000), 1.15),
    (row(Price(2, 10, 0.0, 2.5)), Usage(1_000_000, 0, 1_000_000), 0.0),
    (row(Price()), Usage(1_000_000, 100_000), None),
    (row(Price(2, 10), "another"), Usage(1_000_000, 100_000), None),
]


@pytest.mark.parametrize(("choice", "usage", "cost"), COSTS)
def test_cost(choice: Choice, usage: Usage, cost: float | None) -> None:
    assert cost_usd(choice, usage) == (None if cost is None else pytest.approx(cost))


def test_it_is_counted_by_model() -> None:
    async def scene() -> None:
        stage = Stage(anthropic=Player([SUM, FIRST], [Delta("42"), SECOND]))
        end = (await stage.told(stage.generation(enable_tools=True)))[-1]
        whom = ("Anthropic", "claude-3-sonnet")
        kinds = {labels: values[0] for labels, values in stage.metrics.token_kinds.read()}
        assert kinds[("cached_input", *whom)] == 150
        assert kinds[("reasoning", *whom)] == 7
        tokens = {labels: values[0] for labels, values in stage.metrics.tokens.read()}
        assert (tokens[("input", *whom)], tokens[("output", *whom)]) == (250, 30)
        assert dict(stage.metrics.cost.read())[whom][0] == pytest.approx(end["cost_usd"])

    asyncio.run(scene())
