"""LangChain's `ChatOpenAI` over both dialects."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessageChunk, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from tests.conformance.telling import (
    BROKEN,
    CALLED,
    CALLING,
    GIVEN,
    LONG,
    PICTURE,
    SILENT,
    TEXT,
    WORDS,
    ask,
    expect,
    run,
    running,
    say,
    until_state,
    words,
)  # fmt: skip

DIALECTS = (False, True)
CASES: dict[str, Callable[[], None]] = {}


def model(name: str = TEXT, edge: str = "first", *, responses: bool = False, **more: Any) -> ChatOpenAI:
    given: dict[str, Any] = {
        "base_url": f"{GIVEN[edge]}/v1", "api_key": GIVEN["key"], "model": name, "max_retries": 0, "timeout": 60,
        "use_responses_api": responses, **more,
    }  # fmt: skip
    return ChatOpenAI(**given)


def case(name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def put(function: Callable[[], None]) -> Callable[[], None]:
        CASES[name] = function
        return function

    return put


def text_of(message: Any) -> str:
    if isinstance(message.content, str):
        return message.content
    return "".join(part.get("text", "") for part in message.content if isinstance(part, dict))


def streamed(asked: ChatOpenAI, turns: Any = "hi", **more: Any) -> Any:
    whole: AIMessageChunk | None = None
    for chunk in asked.stream(turns, **more):
        whole = chunk if whole is None else whole + chunk
    return whole


def fails(run_it: Callable[..., Any], *given: Any, **more: Any) -> Any:
    try:
        run_it(*given, **more)
    except Exception as error:
        return error
    raise AssertionError("no error")


@tool  # type: ignore[untyped-decorator]
def calculator(expression: str) -> str:
    """Calculates."""
    return "42" if expression == "6*7" else "?"


@case("text")
def text() -> None:
    for responses in DIALECTS:
        expect(text_of(streamed(model(responses=responses))), WORDS)
        expect(text_of(model(responses=responses).invoke("hi")), WORDS)


@case("own tools")
def own_tools() -> None:
    for responses in DIALECTS:
        bound: Any = model(CALLING, responses=responses).bind_tools([calculator])
        for made in (streamed(bound), bound.invoke("hi")):
            expect(text_of(made), CALLED[0])
            [call] = made.tool_calls
            expect((call["name"], call["args"]), ("calculator", {"expression": "6*7"}))
            result = ToolMessage(calculator.invoke(call["args"]), tool_call_id=call["id"])
            expect(text_of(bound.invoke([("user", "hi"), made, result])), CALLED[1])


@case("server's tools")
def server_tools() -> None:
    for responses in DIALECTS:
        made = streamed(model(CALLING, responses=responses, extra_body={"enable_tools": True}))
        expect((text_of(made), made.tool_calls), ("".join(CALLED), []))


@case("usage")
def usage() -> None:
    for responses in DIALECTS:
        asked = model("acme", responses=responses, stream_usage=True)
        for made in (streamed(asked), asked.invoke("hi")):
            told = made.usage_metadata
            expect((told["input_tokens"], told["output_tokens"], told["total_tokens"]), (1_000, 200, 1_200))
            expect(told["input_token_details"]["cache_read"], 400)
            expect(told["output_token_details"]["reasoning"], 150)


@case("thinking")
def thinking() -> None:
    made = streamed(model("acme", responses=True, reasoning={"summary": "auto"}))
    kinds = [part["type"] for part in made.content]
    expect((kinds, text_of(made)), (["reasoning", "text"], "pictures: 0"))


@case("images")
def images() -> None:
    content = [{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": PICTURE}}]
    for responses in DIALECTS:
        expect(text_of(model("acme", responses=responses).invoke([("user", content)])), "pictures: 1")


@case("errors before")
def errors_before() -> None:
    for responses in DIALECTS:
        error = fails(model("no-such-model", responses=responses).invoke, "hi")
        expect(getattr(error, "code", None), "model_not_found")
        error = fails(streamed, model("no-such-model", responses=responses))
        expect(getattr(error, "code", None), "model_not_found")


@case("errors in the stream")
def errors_in_stream() -> None:
    for responses in DIALECTS:
        fails(streamed, model(BROKEN, responses=responses))


@case("cancel")
def cancel() -> None:
    before = running()
    reading = model(LONG).stream("hi")
    next(reading)
    [stream_id] = running() - before
    ask("POST", f"/api/streams/{stream_id}/cancel")
    fails(lambda: list(reading))
    until_state(stream_id, "cancelled")


@case("disconnect")
def disconnect() -> None:
    before = running()
    reading = model(LONG).stream("hi")
    next(reading)
    [stream_id] = running() - before
    reading.close()
    until_state(stream_id, "cancelled")


@case("attach")
def attach() -> None:
    headers = {"Idempotency-Key": f"conformance-{time.time_ns()}"}
    slow = "scripted?tokens=60&interval_ms=30"
    reading = model(slow, default_headers=headers).stream("hi")
    next(reading)
    reading.close()
    expect(text_of(streamed(model(slow, "second", default_headers=headers))), words(60))


@case("silence")
def silence() -> None:
    for responses in DIALECTS:
        expect(text_of(streamed(model(SILENT, responses=responses))), words(2))


@case("drain")
def drain() -> None:
    readings = [model(LONG, "drained", responses=responses).stream("hi") for responses in DIALECTS]
    for reading in readings:
        while not text_of(next(reading)):
            pass
    say(drain=True)
    for reading in readings:
        fails(list, reading)


@case("page")
def page() -> None:
    """docs/langchain.md, as it stands."""
    text = (Path(GIVEN["docs"]) / "langchain.md").read_text(encoding="utf-8")
    programs = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    expect(len(programs), 2)
    env = os.environ | {"OPENAI_BASE_URL": f"{GIVEN['first']}/v1", "OPENAI_API_KEY": GIVEN["key"]}
    for program in programs:
        done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=60)
        expect((done.returncode, done.stdout), (0, WORDS))


if __name__ == "__main__":
    run(CASES)
