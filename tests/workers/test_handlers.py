"""A handler of one's own: each kind of function, each part, and each way to end."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tests.workers.generation.play import Stage
from tokenrelay.agent import Alive, Ask, Data, Fail, Finish, Text, Thinking, ToolCall, ToolResult, Usage
from tokenrelay.protocol.models import catalogue
from tokenrelay.workers.providers import handler_thread
from tokenrelay.workers.providers.handler_import import HandlerError, find
from tokenrelay.workers.providers.handler_thread import HandlerThread
from tokenrelay.workers.providers.python_handler import PythonHandler
from tokenrelay.workers.settings import Settings

ROWS = catalogue.parse(
    """
[[model]]
id = "support"
provider = "Acme"
dialect = "python"
handler = "acme.agents:support"
upstream = "support"
accepts = ["tools"]
fallbacks = ["second"]

[[model]]
id = "second"
provider = "Other"
dialect = "python"
handler = "acme.agents:second"
upstream = "second"
"""
)


async def second(ask: Ask) -> AsyncIterator[str]:
    yield f"second {ask.attempt}"


async def until_noted(noted: list[str]) -> None:
    """Handlers tidy up in a thread of their own, after their answer has ended."""
    async with asyncio.timeout(20):
        while not noted:
            await asyncio.sleep(0.02)


def told(
    handler: Callable[[Ask], Any],
    settings: Settings | None = None,
    during: Callable[[Any], Any] | None = None,
    threads: int = 2,
    **fields: Any,
) -> list[dict[str, Any]]:
    """The events of one answer of `handler`; `during` is called with its generation while it runs."""

    async def scene() -> list[dict[str, Any]]:
        thread = HandlerThread(threads)
        stage = Stage(settings)
        stage.resources.catalogue = ROWS
        stage.resources.providers = {
            "python:support": PythonHandler("Acme", "acme.agents:support", handler, thread, tools=True),
            "python:second": PythonHandler("Other", "acme.agents:second", second, thread, tools=False),
        }
        generation = stage.generation(**{"model": "support", **fields})
        watching = None if during is None else asyncio.ensure_future(during(generation))
        try:
            return await stage.told(generation)
        finally:
            if watching is not None:
                await watching
            await thread.close()

    return asyncio.run(asyncio.wait_for(scene(), 30))


def text(events: list[dict[str, Any]]) -> str:
    return "".join(event["token"] for event in events)


def test_every_part_is_told_in_its_order_as_it_was_yielded() -> None:
    async def handler(ask: Ask) -> AsyncIterator[Any]:
        yield Thinking("hm")
        yield "one"
        yield Alive()
        yield ToolCall("c1", "lookup", {"order": 7})
        yield ToolResult("c1", "sent", False)
        yield Text("two")
        yield Data("source", {"page": [1, 2]})
        result = await ask.call_tool("calculator", {"expression": "6*7"})
        yield str(result)
        yield Usage(10, 5, 2, 0.25)
        yield Usage(1, 1)
        yield Finish("length")
        yield "never told"

    events = told(handler)
    assert text(events) == "onetwo42"
    told_in_order = [
        next((str(e[name]) for name in ("status", "data_name", "tool_result", "tool_name") if name in e), e["token"])
        for e in events[:-1]
    ]
    assert told_in_order == ["started", "thinking", "one", "lookup", "sent", "two", "source", "calculator", "42", "42"]
    assert events[4]["tool_name"] == "lookup"
    assert events[6]["data"] == {"page": [1, 2]}
    end = events[-1]
    assert (end["finish_reason"], end["provider"], end["resolved_model"]) == ("length", "Acme", "support")
    assert end["usage"]["input_tokens"] == 11
    assert end["usage"]["cached_input_tokens"] == 2


def _generator(ask: Ask) -> Iterator[str]:
    for number in range(3):
        yield f"{number}{ask.messages[-1].content}"


async def _coroutine(ask: Ask) -> str:
    return f"0{ask.messages[-1]['content']}"


@pytest.mark.parametrize(
    ("handler", "expected"),
    [(_generator, "0hi1hi2hi"), (_coroutine, "0hi"), (lambda ask: ask.messages[0].role, "user"), (lambda _: None, "")],
)
def test_each_kind_of_function_answers(handler: Callable[[Ask], Any], expected: str) -> None:
    events = told(handler, message="hi")
    assert text(events) == expected
    assert events[-1]["finish_reason"] == "stop"


def test_an_ask_says_who_asks_what() -> None:
    asks: list[Ask] = []

    async def handler(ask: Ask) -> AsyncIterator[str]:
        asks.append(ask)
        yield "x"

    told(handler, max_tokens=9, reasoning={"effort": "high"}, tools=["calculator"], metadata={"ticket": "7"})
    [ask] = asks
    assert (ask.owner, ask.stream_id, ask.attempt, ask.max_tokens) == ("alice", "stream-1", 1, 9)
    assert ask.reasoning == {"effort": "high"}
    assert ask.metadata == {"ticket": "7"}
    assert ask.tools[0]["function"]["name"] == "calculator"
    assert ask.deadline is not None
    assert 800 < ask.deadline - time.time() <= 900


def test_one_that_never_yields_is_given_up_and_its_fallback_answers() -> None:
    noted: list[str] = []

    async def handler(_: Ask) -> AsyncIterator[str]:
        try:
            await asyncio.sleep(3600)
            yield "never"
        finally:
            noted.append("tidied up")

    settings = Settings(first_token_timeout_s=0.3, max_attempts=2)
    events = told(handler, settings)
    assert text(events) == "second 1"
    assert [each["error_code"] for each in events[-1]["attempts"]] == ["TIMEOUT"]
    assert noted == ["tidied up"]


def test_one_that_hangs_when_it_should_tidy_up_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler_thread, "CLEANUP_S", 0.2)
    noted: list[str] = []

    async def handler(_: Ask) -> AsyncIterator[str]:
        try:
            yield "t"
            await asyncio.sleep(3600)
        finally:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                noted.append("cut off")
                raise

    async def cancel(generation: Any) -> None:
        await asyncio.sleep(0.2)
        generation.stop("cancel")
        await until_noted(noted)

    assert told(handler, during=cancel)[-1]["finish_reason"] == "cancelled"
    assert noted == ["cut off"]


def test_the_deadline_cuts_it_off_and_keeps_what_was_told() -> None:
    noted: list[str] = []

    async def handler(_: Ask) -> AsyncIterator[str]:
        try:
            while True:
                yield "t"
                await asyncio.sleep(0.01)
        finally:
            noted.append("tidied up")

    events = told(handler, Settings(generation_timeout_s=0.5))
    assert events[-1]["error_code"] == "TIMEOUT"
    assert text(events).startswith("tt")
    assert noted == ["tidied up"]


# -- ends that are no answer -------------------------------------------------------------------------------------------


def test_before_the_first_part_a_fallback_answers_and_counts_its_own_attempts() -> None:
    async def handler(_: Ask) -> str:
        raise RuntimeError("nothing for clients")

    events = told(handler)
    assert text(events) == "second 1"
    assert events[-1]["attempts"][0]["error_code"] == "INTERNAL_ERROR"


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (Fail("no such order", "NOT_FOUND"), "NOT_FOUND", "no such order"),
        (Fail("come back later", retryable=True), "PROVIDER_ERROR", "come back later"),
        (Fail("x" * 100_000), "PROVIDER_ERROR", "x" * 3_999 + "…"),
        (Fail("half \ud800"), "PROVIDER_ERROR", "half ?"),
        (RuntimeError("secret"), "INTERNAL_ERROR", "something went wrong here; it has been noted"),
        (SystemExit(3), "INTERNAL_ERROR", "something went wrong here; it has been noted"),
    ],
)
@pytest.mark.parametrize("is_sync", [True, False])
def test_after_it_the_error_is_told(error: BaseException, code: str, sentence: str, is_sync: bool) -> None:
    async def in_loop(_: Ask) -> AsyncIterator[str]:
        yield "a"
        raise error

    def in_thread(_: Ask) -> Iterator[str]:
        yield "a"
        raise error

    events = told(in_thread if is_sync else in_loop)
    assert text(events) == "a"
    assert (events[-1]["error_code"], events[-1]["error"]) == (code, sentence)
    assert events[-1]["retryable"] == getattr(error, "retryable", False)


ODD: Any = object()
HALF: Any = 0.5
UNTOLD: list[Any] = [
    7, ToolResult("c9", "of no call"), Data("big", "x" * 20_000), Data("", 1), Data("n", 10**40), Data("n", ODD),
    Finish("bored"), Thinking(ODD), Usage(-1, 1), Usage(1, -1), Usage(1, 1, -1), Usage(ODD, 1), Usage(1, ODD),
    Usage(HALF, 1), Usage(10**30, 1), Usage(1, 1, None, -0.5), Usage(1, 1, None, float("nan")),
]  # fmt: skip


@pytest.mark.parametrize("part", UNTOLD, ids=lambda part: type(part).__name__)
def test_what_cannot_be_told_is_the_handlers_fault(part: Any) -> None:
    async def handler(_: Ask) -> AsyncIterator[Any]:
        yield "a"
        yield part

    end = told(handler)[-1]
    assert (end["error_code"], end["retryable"]) == ("INTERNAL_ERROR", False)


def test_half_a_character_is_told_as_a_question_mark() -> None:
    half = "\ud83d"

    async def handler(_: Ask) -> AsyncIterator[Any]:
        yield half
        yield ToolCall("c1", "lookup", {"order": half})
        yield ToolResult("c1", half)
        yield Data("step", {"name": half})

    _, text_of, call, result, data, end = told(handler)
    assert (text_of["token"], call["tool_input"], result["tool_result"]) == ("?", {"order": "?"}, "?")
    assert (data["data"], end["finish_reason"]) == ({"name": "?"}, "stop")


@pytest.mark.parametrize(("name", "arguments"), [(7, {}), ("", {}), ("calculator", 7), ("calculator", {"a": ODD})])
def test_a_tool_is_called_by_its_name_with_plain_arguments(name: Any, arguments: Any) -> None:
    async def handler(ask: Ask) -> AsyncIterator[str]:
        yield "a"
        yield str(await ask.call_tool(name, arguments))

    assert told(handler)[-1]["error_code"] == "INTERNAL_ERROR"


@pytest.mark.parametrize("stands_at", ["await", "yield"])
def test_cancel_is_felt_inside_and_its_cleanup_has_time(stands_at: str) -> None:
    noted: list[str] = []

    async def handler(_: Ask) -> AsyncIterator[str]:
        try:
            while True:
                yield "t"
                if stands_at == "await":
                    await asyncio.sleep(60)
        except asyncio.CancelledError:
            noted.append("cancelled")
            raise
        finally:
            await asyncio.sleep(0.2)
            noted.append("tidied up")

    async def cancel(generation: Any) -> None:
        await asyncio.sleep(0.2)
        generation.stop("cancel")

    events = told(handler, during=cancel)
    assert events[-1]["finish_reason"] == "cancelled"
    assert noted == ["cancelled", "tidied up"]


def test_a_generator_is_closed_at_its_next_yield_and_frees_its_thread() -> None:
    noted: list[str] = []

    def handler(_: Ask) -> Iterator[str]:
        try:
            while True:
                yield "t"
                time.sleep(0.05)
        finally:
            noted.append("closed")

    async def cancel(generation: Any) -> None:
        await asyncio.sleep(0.2)
        generation.stop("cancel")
        await until_noted(noted)

    assert told(handler, during=cancel)[-1]["finish_reason"] == "cancelled"
    assert noted == ["closed"]


def test_one_that_blocks_its_loop_stops_nobody_else_and_is_named() -> None:
    names: list[str] = []
    turns: list[float] = []

    async def handler(_: Ask) -> AsyncIterator[str]:
        yield "a"
        time.sleep(2.5)  # noqa: ASYNC251  what must not be done
        yield "b"

    async def watch(generation: Any) -> None:
        provider = generation._using.providers["python:support"]
        watching = asyncio.create_task(provider._thread.watch(names.append))
        for _ in range(30):
            await asyncio.sleep(0.1)
            turns.append(time.monotonic())
        watching.cancel()

    assert text(told(handler, during=watch)) == "ab"
    assert names == ["acme.agents:support"]
    assert max(later - earlier for earlier, later in itertools.pairwise(turns)) < 1.5


def test_a_sync_handler_calls_tools_too() -> None:
    def handler(ask: Ask) -> Iterator[str]:
        yield "It is "
        yield str(asyncio.run(ask.call_tool("calculator", {"expression": "6*7"})))

    assert text(told(handler)) == "It is 42"


def test_a_sync_handler_that_waits_for_a_tool_frees_its_thread_when_it_is_stopped() -> None:
    noted: list[str] = []

    def handler(ask: Ask) -> Iterator[str]:
        yield "t"
        try:
            time.sleep(0.5)  # stopped meanwhile: nobody runs a tool for it any more
            asyncio.run(ask.call_tool("calculator", {"expression": "6*7"}))
        finally:
            noted.append("over")

    async def cancel(generation: Any) -> None:
        await asyncio.sleep(0.1)
        generation.stop("cancel")
        await until_noted(noted)

    assert told(handler, during=cancel)[-1]["finish_reason"] == "cancelled"
    assert noted == ["over"]


def test_when_all_threads_are_taken_starts_wait() -> None:
    async def scene() -> None:
        thread, most, now = HandlerThread(2), 0, 0

        def handler(_: Ask) -> str:
            nonlocal most, now
            now += 1
            most = max(most, now)
            time.sleep(0.1)
            now -= 1
            return "x"

        stage = Stage()
        stage.resources.catalogue = ROWS
        stage.resources.providers = {"python:support": PythonHandler("Acme", "a:b", handler, thread, tools=False)}
        answers = await asyncio.gather(*(stage.told(stage.generation(model="support")) for _ in range(6)))
        assert [text(events) for events in answers] == ["x"] * 6
        assert most == 2
        await thread.close()

    asyncio.run(asyncio.wait_for(scene(), 20))


# -- the row -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "cause"),
    [
        ("acme_is_not_there:support", "ModuleNotFoundError: No module named 'acme_is_not_there'"),
        ("json:support", "has no attribute 'support'"),
        ("json:decoder", "it is no function"),
        ("json:JSONDecoder", "it is no function"),
        ("shutil:copyfile", "one argument"),
    ],
)
def test_a_handler_that_cannot_be_used_says_why(spec: str, cause: str) -> None:
    with pytest.raises(HandlerError, match=cause):
        find(spec)


@pytest.mark.parametrize(
    "row",
    [
        'dialect = "python"',
        'dialect = "scripted"\nhandler = "a:b"',
        'dialect = "python"\nhandler = "a.b"',
    ],
)
def test_a_row_that_names_no_handler_is_refused_with_its_line(row: str) -> None:
    with pytest.raises(ValueError, match=r"line [1-6]: the catalogue is not valid"):
        catalogue.parse(f'[[model]]\nid = "a"\nprovider = "A"\nupstream = "a"\n{row}\n')
