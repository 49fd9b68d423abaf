"""The loop of tools in one generation: which calls are run, which end the answer, which are refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.workers.chain import Memory
from tokenrelay.protocol.models import catalogue
from tokenrelay.protocol.runtime.tracing import Tracing
from tokenrelay.protocol.store.entries import unpack_entry
from tokenrelay.protocol.store.scripts import Claim
from tokenrelay.protocol.wire import event_json, request
from tokenrelay.workers.circuit import Circuits
from tokenrelay.workers.conversation import Delta, Finish, ModelRequest, Piece, ToolUse
from tokenrelay.workers.generation.generation import Generation
from tokenrelay.workers.generation.tool_calls import MAX_CALLS
from tokenrelay.workers.metrics import Metrics
from tokenrelay.workers.settings import Settings
from tokenrelay.workers.tools.registry import Toolbox

OURS = catalogue.parse((Path(catalogue.__file__).with_name("catalogue.toml")).read_text(encoding="utf-8"))
SUM = ToolUse("c1", "calculator", {"expression": "6*7"})
WEATHER = ToolUse("c2", "get_weather", {"city": "Oslo"})
OWN = {"type": "function", "function": {"name": "get_weather"}}


class Caller:
    """A model that calls these tools in its first round and answers in its second."""

    name = "Caller"

    def __init__(self, *uses: ToolUse) -> None:
        self.uses = uses
        self.heard: list[ModelRequest] = []

    def left_out(self, asked: ModelRequest) -> tuple[str, ...]:
        return ()

    async def stream(self, asked: ModelRequest) -> AsyncIterator[Piece]:
        self.heard.append(asked)
        if len(self.heard) == 1:
            for use in self.uses:
                yield use
            yield Finish("tool_calls", 1, 1, "m")
        else:
            yield Delta("done")
            yield Finish("stop", 1, 1, "m")

    async def aclose(self) -> None:
        """Holds nothing."""


def told(caller: Caller, **fields: Any) -> list[dict[str, Any]]:
    """The events of one generation, as a client gets their data."""
    asked = request.from_object({"message": "x", "model": "claude", **fields})

    async def scene() -> list[dict[str, Any]]:
        resources: Any = SimpleNamespace(
            settings=Settings(), writer=SimpleNamespace(mark=lambda _: None, ended=lambda _: None), catalogue=OURS,
            providers={"anthropic": caller}, tools=Toolbox(),
            circuits=Circuits(OURS.routing.health, "w", 1.0), store=Memory(),
            metrics=Metrics(), tracing=Tracing(),
        )  # fmt: skip
        entries: list[bytes] = []
        generation = Generation(resources, claim(asked), 0.0)
        log: Any = generation.log
        log.append = entries.append
        log.end = lambda raw, _: entries.append(raw)
        await generation.run()
        return [event_json.data_of(unpack_entry(raw), "s") for raw in entries]

    return asyncio.run(scene())


def claim(asked: request.ChatRequest) -> Claim:
    return Claim("s", 1, 0, 0, "claude", "continue", request.pack(asked))


def told_shortly(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(event["tool_name"], event.get("tool_result", "called")) for event in events if "tool_name" in event]


def test_a_tool_of_ours_is_run_and_the_model_goes_on() -> None:
    caller = Caller(SUM)
    events = told(caller, tools=["calculator"])
    assert told_shortly(events) == [("calculator", "called"), ("calculator", "42")]
    assert events[-1]["finish_reason"] == "stop"
    assert [message.role for message in caller.heard[1].messages] == ["user", "assistant", "tool"]


def test_the_callers_own_function_ends_the_answer() -> None:
    caller = Caller(SUM, WEATHER)
    events = told(caller, tools=["calculator", OWN])
    assert told_shortly(events) == [("calculator", "called"), ("get_weather", "called"), ("calculator", "42")]
    assert events[-1]["finish_reason"] == "tool_calls"
    assert len(caller.heard) == 1


@pytest.mark.parametrize("use", [SUM, WEATHER])
def test_what_was_not_offered_is_not_run(use: ToolUse) -> None:
    events = told(Caller(use), tools=["current_time"])
    assert told_shortly(events)[1] == (use.name, f"there is no tool called {use.name!r}")
    assert events[-1]["finish_reason"] == "stop"


def test_only_so_many_are_run_side_by_side() -> None:
    uses = [ToolUse(f"c{number}", "calculator", {"expression": "1+1"}) for number in range(MAX_CALLS + 2)]
    events = told(Caller(*uses), enable_tools=True)
    failed = [event for event in events if event.get("tool_error")]
    assert [event["tool_result"] for event in failed] == [f"at most {MAX_CALLS} calls at once"] * 2


def test_a_tool_that_is_not_there_is_an_error_that_names_it() -> None:
    events = told(Caller(SUM), tools=["nobodys_tool"])
    assert (events[-1]["error_code"], "tools[0]" in events[-1]["error"]) == ("VALIDATION_ERROR", True)
