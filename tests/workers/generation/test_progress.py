"""A model at work is seen at work: thinking and tool arguments keep every wait open, and are told to who asked."""

from __future__ import annotations

import asyncio

import pytest

from tests.workers.generation.play import Player, Stage, Step, play, shortly
from tokenrelay.workers.conversation import Delta, Finish, Progress, Thinking, ToolInput, ToolUse
from tokenrelay.workers.providers.base import ProviderError
from tokenrelay.workers.settings import Settings

SHORT = Settings(first_token_timeout_s=0.6, between_tokens_timeout_s=0.4, first_token_budget_s=1.0, max_attempts=1)
STOP = Finish("stop", 3, 5, "m")
CALLED = Finish("tool_calls", 3, 5, "m")
SUM = ToolUse("c0", "calculator", {"expression": "6*7"})


def slowly(*steps: Step, every_s: float = 0.1, times: int = 20) -> list[Step]:
    return [item for _ in range(times) for step in steps for item in (step, every_s)]


@pytest.mark.parametrize("piece", [Thinking("hm"), Thinking(""), ToolInput("c0", "", "{")])
def test_a_model_at_work_is_never_cut_off_as_silent(piece: Step) -> None:
    """Longer than any of the timeouts, before the first output and after it."""
    events = play([*slowly(piece), Delta("a"), *slowly(piece), Delta("b"), STOP], settings=SHORT)
    assert "".join(event["token"] for event in events) == "ab"
    assert events[-1]["finish_reason"] == "stop"


def test_pings_keep_the_first_wait_open_but_not_beyond_the_budget() -> None:
    events = play([*slowly(Progress(), times=8), Delta("a"), STOP], settings=SHORT)
    assert shortly(events) == ["started", "a", "stop"]
    events = play([*slowly(Progress(), times=40), Delta("a"), STOP], settings=SHORT)
    assert shortly(events) == ["started", "TIMEOUT"]


def test_the_total_bound_holds_for_who_thinks_for_ever() -> None:
    settings = Settings(generation_timeout_s=0.5)
    assert shortly(play(slowly(Thinking("hm"), times=60), settings=settings))[-1] == "TIMEOUT"


def test_one_that_stops_thinking_without_output_is_silent() -> None:
    assert shortly(play([Thinking("hm"), None], settings=SHORT)) == ["started", "thinking", "TIMEOUT"]


def test_thinking_is_told_once_for_each_run_and_at_once() -> None:
    async def scene() -> None:
        runs = [*slowly(Thinking("hm"), times=15), Delta("a"), Thinking("so"), Thinking(""), ToolInput("c0", "x", "")]
        stage = Stage(SHORT, anthropic=Player([*runs, Thinking("ah"), SUM, CALLED], [Thinking("oh"), Delta("b"), STOP]))
        told = shortly(await stage.told(stage.generation(enable_tools=True)))
        first = ["started", "thinking", "a", "thinking", "thinking", "calculator", "42"]
        assert told == [*first, "thinking", "\n\n", "b", "stop"]
        assert stage.times[1] < 1.0

    asyncio.run(asyncio.wait_for(scene(), 30))


def test_texts_of_thoughts_and_arguments_are_for_who_asked() -> None:
    pieces: list[Step] = [
        Thinking("let me "), Thinking("see"), ToolInput("c0", "calculator", '{"ex'), ToolInput("c0", "", 'pression":'),
        SUM, CALLED,
    ]  # fmt: skip
    after: list[Step] = [Delta("42"), STOP]
    begin, end = ["started", "thinking"], ["calculator", "42", "42", "stop"]
    assert shortly(play(pieces, after, enable_tools=True)) == [*begin, *end]
    assert shortly(play(pieces, after, enable_tools=True, show=["thinking"])) == [*begin, "let me ", "see", *end]
    assert shortly(play(pieces, after, enable_tools=True, show=["tool_input"])) == [
        *begin, "calculator", '{"ex', 'pression":', *end,
    ]  # fmt: skip


def test_long_thoughts_and_half_characters_fit_into_entries() -> None:
    events = play([Thinking("x" * 20_000 + "\ud83d"), Delta("a"), STOP], show=["thinking"])
    told = [event["thinking"] for event in events if "thinking" in event]
    assert len(told) == 3
    assert "".join(told) == "x" * 20_000 + "?"


# -- it does not bind ------------------------------------------------------------------------------------------------

LATER = ProviderError("it broke", retryable=True)


def test_a_model_that_thought_and_failed_is_replaced_by_another() -> None:
    async def scene() -> None:
        thinks, answers = Player([*slowly(Thinking("hm"), times=15), LATER]), Player([Thinking(""), Delta("a"), STOP])
        settings = Settings(first_token_timeout_s=0.6, first_token_budget_s=1.0)
        stage = Stage(settings, anthropic=thinks, gemini=answers)
        events = await stage.told(stage.generation())
        assert shortly(events) == ["started", "thinking", "a", "stop"]
        assert (events[-1]["provider"], len(events[-1]["attempts"])) == ("Google", 1)

    asyncio.run(asyncio.wait_for(scene(), 30))


def test_what_was_only_thought_may_be_begun_anew() -> None:
    """The log's first entry that binds is the token; until then the writer hands it back."""

    async def scene() -> None:
        stage = Stage(anthropic=Player([Thinking("hm"), Thinking("so"), Delta("a"), Delta("b"), STOP]))
        generation = stage.generation(show=["thinking"])
        await generation.run()
        assert generation.log.told_id == 5  # started, thinking, hm, so, a
        assert shortly(await stage.told(stage.generation(last_id=4))) == ["thinking", "a", "b", "stop"]

    asyncio.run(asyncio.wait_for(scene(), 30))


# -- items -----------------------------------------------------------------------------------------------------------

ITEMS = [
    ("a", "b", "a\n\nb"),
    ("a ", "b", "a b"),
    ("a", "\nb", "a\nb"),
]


@pytest.mark.parametrize(("one", "other", "told"), ITEMS)
def test_two_items_do_not_run_together(one: str, other: str, told: str) -> None:
    within = play([Delta(one), Delta(other, begins_item=True), STOP])
    assert "".join(event["token"] for event in within) == told
    around_a_tool = play([Delta(one), SUM, CALLED], [Delta(other), STOP], enable_tools=True)
    assert "".join(event["token"] for event in around_a_tool) == told


def test_nothing_is_added_before_the_first_text_or_within_an_item() -> None:
    assert shortly(play([Delta("a", begins_item=True), Delta("b"), STOP])) == ["started", "a", "b", "stop"]
    assert shortly(play([SUM, CALLED], [Delta("a"), STOP], enable_tools=True))[-2:] == ["a", "stop"]


def test_the_scripted_model_is_told_as_it_comes() -> None:
    async def scene() -> None:
        stage = Stage(scripted=Player([Delta("a"), SUM, CALLED], [Delta("b"), STOP]))
        events = await stage.told(stage.generation(model="scripted?tokens=2", enable_tools=True))
        assert "".join(event["token"] for event in events) == "ab"

    asyncio.run(scene())
