"""Agents of other libraries as handlers: each example runs with the real library and without a key."""

from __future__ import annotations

import asyncio
import importlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.function import DeltaThinkingPart, DeltaToolCall, FunctionModel

from tokenrelay.agent import (
    Alive,
    Ask,
    Data,
    Fail,
    Finish,
    Message,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Usage,
    openai_chunks,
)
from tokenrelay.protocol.models import catalogue
from tokenrelay.workers.providers.handler_import import find

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
QUESTION = Message(role="user", content="Where is order 7?")
LOOKED = [ToolCall("c1", "state_of_order", {"number": 7}), ToolResult("c1", "order 7 is on its way")]


@pytest.fixture(autouse=True)
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)


def parts(handler: Callable[[Ask], AsyncIterator[Any]], *turns: Message, **fields: Any) -> list[Any]:
    """What it yields, texts that follow one another joined."""

    async def scene() -> list[Any]:
        told: list[Any] = []
        async for part in handler(Ask(messages=turns or (QUESTION,), stream_id="stream-1", **fields)):
            if isinstance(part, Text) and told and isinstance(told[-1], Text):
                told[-1] = Text(told[-1].text + part.text)
            elif not isinstance(part, Alive):
                told.append(part)
        return told

    return asyncio.run(asyncio.wait_for(scene(), 30))


def test_every_row_of_the_examples_names_a_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    rows = catalogue.parse((EXAMPLES / "models.toml").read_text())
    assert {path.stem for path in EXAMPLES.glob("*_agent.py")} == {
        row.handler.partition(":")[0] for row in rows.models if row.handler is not None and callable(find(row.handler))
    }


# -- pydantic-ai -------------------------------------------------------------------------------------------------------


def test_an_agent_of_pydantic_ai_runs_with_its_tool() -> None:
    handler = importlib.import_module("pydantic_ai_agent").handler
    call, result, text, usage = parts(handler)
    assert (call.name, result.id, result.failed) == ("state_of_order", call.id, False)
    assert result.text in text.text
    assert usage.output > 0


def test_what_a_model_of_pydantic_ai_thinks_and_writes_is_told_in_order() -> None:
    agent = importlib.import_module("pydantic_ai_agent")
    seen: list[Any] = []

    async def model(messages: list[Any], _: Any) -> AsyncIterator[Any]:
        seen[:] = [(type(part).__name__, getattr(part, "content", "")) for each in messages for part in each.parts]
        if any(name == "ToolReturnPart" for name, _ in seen):
            yield "On its "
            yield "way."
        else:
            yield "Let me look."
            yield {1: DeltaThinkingPart(content="order 7?")}
            yield {2: DeltaToolCall("state_of_order", '{"number": 7}', tool_call_id="c1")}

    system, said = Message(role="system", content="Be kind."), Message(role="assistant", content="Hello.")
    with agent.agent.override(model=FunctionModel(stream_function=model)):
        *told, usage = parts(agent.handler, system, Message(role="user", content="Hi"), said, QUESTION)
    assert told == [Text("Let me look."), Thinking("order 7?"), *LOOKED, Text("\n\nOn its way.")]
    assert isinstance(usage, Usage)
    assert seen[:4] == [
        ("SystemPromptPart", "Be kind."), ("UserPromptPart", "Hi"), ("TextPart", "Hello."),
        ("UserPromptPart", QUESTION.content),
    ]  # fmt: skip


@pytest.mark.parametrize(("status", "retryable"), [(401, False), (429, True), (503, True)])
def test_a_refusal_of_the_provider_is_told_by_its_status(status: int, retryable: bool) -> None:
    agent = importlib.import_module("pydantic_ai_agent")

    async def model(_: Any, __: Any) -> AsyncIterator[str]:
        if status:
            raise ModelHTTPError(status, "m", "sk-secret")
        yield ""

    with agent.agent.override(model=FunctionModel(stream_function=model)), pytest.raises(Fail) as failed:
        parts(agent.handler)
    assert (failed.value.sentence, failed.value.retryable) == (
        f"the model's provider refused with status {status}", retryable,
    )  # fmt: skip


# -- LangGraph ---------------------------------------------------------------------------------------------------------


def test_a_graph_tells_its_calls_what_its_nodes_write_and_the_text() -> None:
    handler = importlib.import_module("langgraph_agent").handler
    assert parts(handler) == [
        ToolCall("call_1", "state_of_order", {"number": 7}),
        Data("custom", {"step": "looking at the order"}),
        ToolResult("call_1", "order 7 is on its way"),
        Text("Your order is on its way."),
    ]


# -- Chat Completions chunks -------------------------------------------------------------------------------------------


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, *, of: str = "1", **more: Any) -> Any:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {"id": of, "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **more}


CALL = {"index": 0, "id": "c1", "function": {"name": "state_of_order", "arguments": '{"number": 7}'}}
FIRST = [
    chunk({"role": "assistant", "reasoning_content": "order 7?"}), chunk({"content": "Let me look."}),
    chunk({"tool_calls": [CALL]}), chunk({}, "tool_calls"),
    chunk(usage={"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}),
]  # fmt: skip
SECOND = [chunk({"content": "On its "}, of="2"), chunk({"content": "way."}, of="2"), chunk({}, "stop", of="2")]


def test_the_openai_sdk_streams_through_our_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(await request.json())
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for each in FIRST:
            await response.write(b"data: " + json.dumps(each).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    async def scene() -> list[Any]:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{port}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        handler = importlib.import_module("openai_sdk_agent").handler
        told = [part async for part in handler(Ask(messages=[QUESTION])) if not isinstance(part, Alive)]
        await runner.cleanup()
        return told

    assert asyncio.run(asyncio.wait_for(scene(), 30)) == [
        Thinking("order 7?"), Text("Let me look."), LOOKED[0], Usage(5, 3), Finish("tool_calls"),
    ]  # fmt: skip
    assert asked[0]["messages"] == [QUESTION]


def test_chunks_of_several_rounds_have_parts_between_them() -> None:
    async def agent(_: Ask) -> AsyncIterator[Any]:
        for each in FIRST:
            yield each
        yield LOOKED[1]
        yield Data("step", 2)
        for each in SECOND:
            yield json.dumps(each).encode()

    assert parts(openai_chunks(agent)) == [
        Thinking("order 7?"), Text("Let me look."), LOOKED[0], Usage(5, 3), LOOKED[1], Data("step", 2),
        Text("\n\nOn its way."), Usage(0, 0), Finish("stop"),
    ]  # fmt: skip


def test_chunks_from_a_coroutine_and_a_plain_iterator() -> None:
    async def agent(_: Ask) -> Any:
        return iter(SECOND)

    assert parts(openai_chunks(agent))[0] == Text("On its way.")


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_client_without_async_blocks_only_its_own_thread(is_cancelled: bool) -> None:
    """All handlers share a loop: it turns while the call and each chunk are waited for."""
    go_on, threads = threading.Event(), set[str]()

    def client(_: Ask) -> Iterator[Any]:
        threads.add(threading.current_thread().name)
        for each in SECOND:
            assert go_on.wait(20)
            yield each

    def function(ask: Ask) -> Iterator[Any]:
        assert go_on.wait(20)
        go_on.clear()
        return client(ask)

    async def scene() -> None:
        stream: Any = openai_chunks(function)(Ask())
        reading = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.05)
        go_on.set()
        await asyncio.sleep(0.05)
        assert not reading.done()
        if is_cancelled:
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
        go_on.set()
        if not is_cancelled:
            told = [await reading, *[part async for part in stream]]
            assert "".join(part.text for part in told if isinstance(part, Text)) == "On its way."
            assert threading.current_thread().name not in threads

    asyncio.run(asyncio.wait_for(scene(), 30))


# As LiteLLM 1.110.2 gives them (`acompletion(…, stream=True)`, `model_dump()`), of a model that thinks and calls.
LITELLM: list[dict[str, Any]] = json.loads((Path(__file__).parent / "litellm_chunks.json").read_text())


def test_chunks_as_litellm_gives_them() -> None:
    async def agent(_: Ask) -> AsyncIterator[Any]:
        for each in LITELLM:
            yield each

    assert parts(openai_chunks(agent)) == [
        Thinking("hmm"), Text("Look."), ToolCall("t1", "state", {"n": 7}), Usage(9, 12, 0), Finish("tool_calls"),
    ]  # fmt: skip


@pytest.mark.parametrize("ends", [SECOND[:2], [*SECOND[:1], {"error": {"message": "overloaded", "code": 503}}]])
def test_an_answer_that_breaks_off_is_a_failure(ends: list[Any]) -> None:
    with pytest.raises(Fail) as failed:
        parts(openai_chunks(lambda _: iter(ends)))
    assert failed.value.retryable


def test_what_is_no_chunk_is_named() -> None:
    with pytest.raises(TypeError, match="got float"):
        parts(openai_chunks(lambda _: iter([1.5])))


def test_the_stream_is_closed_with_the_handler() -> None:
    closed = asyncio.Event()

    async def agent(_: Ask) -> AsyncIterator[Any]:
        try:
            while True:
                yield SECOND[0]
        finally:
            closed.set()

    async def scene() -> None:
        told: Any = openai_chunks(agent)(Ask())
        await anext(told)
        await told.aclose()
        assert closed.is_set()

    asyncio.run(asyncio.wait_for(scene(), 30))
