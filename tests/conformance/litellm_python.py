"""LiteLLM as a library, over both dialects."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import litellm

from tests.conformance.telling import (
    BROKEN,
    CALLED,
    CALLING,
    GIVEN,
    LONG,
    PICTURE,
    SILENT,
    TEXT,
    THOUGHT,
    WORDS,
    ask,
    expect,
    run,
    running,
    say,
    until_state,
    words,
)  # fmt: skip

CASES: dict[str, Callable[[], None]] = {}
HI: Any = [{"role": "user", "content": "hi"}]
PARAMETERS: Any = {"type": "object", "properties": {"expression": {"type": "string"}}}
TOOLS: Any = [{"type": "function", "function": {"name": "calculator", "parameters": PARAMETERS}}]


def case(name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def put(function: Callable[[], None]) -> Callable[[], None]:
        CASES[name] = function
        return function

    return put


def given(name: str, edge: str) -> dict[str, Any]:
    return {"model": f"openai/{name}", "api_base": f"{GIVEN[edge]}/v1", "api_key": GIVEN["key"], "num_retries": 0,
            "max_retries": 0, "timeout": 60}  # fmt: skip


def chat(name: str = TEXT, edge: str = "first", **more: Any) -> Any:
    return litellm.completion(**{**given(name, edge), "messages": HI, **more})


def respond(name: str = TEXT, edge: str = "first", **more: Any) -> Any:
    return litellm.responses(**{**given(name, edge), "input": "hi", **more})


def text_in(chunks: list[Any]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def fails(run_it: Callable[..., Any], *given: Any, **more: Any) -> Any:
    try:
        run_it(*given, **more)
    except Exception as error:
        return error
    raise AssertionError("no error")


def until_text(reading: Any) -> None:
    while not text_in([next(reading)]):
        pass


@case("text")
def text() -> None:
    chunks = list(chat(stream=True))
    expect(text_in(chunks), WORDS)
    expect(chunks[-1].choices[0].finish_reason, "stop")
    expect(chat().choices[0].message.content, WORDS)
    events = list(respond(stream=True))
    expect("".join(event.delta for event in events if event.type == "response.output_text.delta"), WORDS)
    expect(respond().output[0].content[0].text, WORDS)


@case("own tools")
def own_tools() -> None:
    whole = litellm.stream_chunk_builder(list(chat(CALLING, stream=True, tools=TOOLS)), messages=HI)
    assert whole is not None
    for made in (chat(CALLING, tools=TOOLS), whole):
        choice: Any = made.choices[0]
        expect((choice.finish_reason, choice.message.content), ("tool_calls", CALLED[0]))
        [call] = choice.message.tool_calls
        expect((call.function.name, call.function.arguments), ("calculator", '{"expression":"6*7"}'))
        turns = [*HI, choice.message.model_dump(exclude_none=True),
                 {"role": "tool", "tool_call_id": call.id, "content": "42"}]  # fmt: skip
        expect(chat(CALLING, messages=turns, tools=TOOLS).choices[0].message.content, CALLED[1])


@case("server's tools")
def server_tools() -> None:
    chunks = list(chat(CALLING, stream=True, extra_body={"enable_tools": True}))
    expect(text_in(chunks), "".join(CALLED))
    expect([chunk for chunk in chunks if chunk.choices[0].delta.tool_calls], [])


@case("usage")
def usage() -> None:
    chunks = list(chat("acme", stream=True, stream_options={"include_usage": True}))
    [streamed] = [chunk.usage for chunk in chunks if getattr(chunk, "usage", None)]
    for told in (streamed, chat("acme").usage):
        expect((told.prompt_tokens, told.completion_tokens, told.total_tokens), (1_000, 200, 1_200))
        expect(told.prompt_tokens_details.cached_tokens, 400)
        expect(told.completion_tokens_details.reasoning_tokens, 150)
    told = respond("acme").usage
    expect((told.input_tokens, told.output_tokens), (1_000, 200))


@case("thinking")
def thinking() -> None:
    chunks = list(chat("acme", stream=True))
    thoughts = [getattr(chunk.choices[0].delta, "reasoning_content", None) or "" for chunk in chunks if chunk.choices]
    expect("".join(thoughts), THOUGHT)
    expect(chat("acme").choices[0].message.reasoning_content, THOUGHT)


@case("images")
def images() -> None:
    content = [{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": PICTURE}}]
    expect(chat("acme", messages=[{"role": "user", "content": content}]).choices[0].message.content, "pictures: 1")


@case("errors before")
def errors_before() -> None:
    for is_streamed in (False, True):
        error = fails(chat, "no-such-model", stream=is_streamed)
        expect(isinstance(error, litellm.NotFoundError), True)
    error = fails(lambda: chat(api_key="wrong"))
    expect(isinstance(error, litellm.AuthenticationError), True)
    error = fails(
        lambda: chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE}}]}])
    )
    expect(isinstance(error, litellm.BadRequestError), True)


@case("errors in the stream")
def errors_in_stream() -> None:
    fails(lambda: list(chat(BROKEN, stream=True)))


@case("cancel")
def cancel() -> None:
    before = running()
    reading = iter(chat(LONG, stream=True))
    until_text(reading)
    [stream_id] = running() - before
    ask("POST", f"/api/streams/{stream_id}/cancel")
    fails(lambda: list(reading))
    until_state(stream_id, "cancelled")


@case("attach")
def attach() -> None:
    headers = {"Idempotency-Key": f"conformance-{time.time_ns()}"}
    slow = "scripted?tokens=60&interval_ms=30"
    until_text(iter(chat(slow, stream=True, extra_headers=headers)))
    rest = list(chat(slow, "second", stream=True, extra_headers=headers))
    expect(text_in(rest), words(60))


@case("silence")
def silence() -> None:
    expect(text_in(list(chat(SILENT, stream=True))), words(2))


@case("disconnect")
def disconnect() -> None:
    before = running()
    stream = chat(LONG, stream=True)
    until_text(iter(stream))
    [stream_id] = running() - before
    stream.completion_stream.close()
    until_state(stream_id, "cancelled")


@case("drain")
def drain() -> None:
    reading = iter(chat(LONG, "drained", stream=True))
    until_text(reading)
    say(drain=True)
    fails(lambda: list(reading))


if __name__ == "__main__":
    run(CASES)
