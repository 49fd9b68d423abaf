"""openai-python, of any major: both dialects, streamed and not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import openai

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
    say,
    state_of,
    until_state,
    words,
)  # fmt: skip

HI: Any = [{"role": "user", "content": "hi"}]
FUNCTION: Any = {
    "name": "calculator",
    "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}},
}
TOOLS: Any = [{"type": "function", "function": FUNCTION}]
CASES: dict[str, Callable[[], None]] = {}


def client(edge: str = "first", key: str | None = None) -> Any:
    """Any: the types of three majors differ."""
    return openai.OpenAI(base_url=f"{GIVEN[edge]}/v1", api_key=key or GIVEN["key"], max_retries=0, timeout=60)


def case(name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def put(function: Callable[[], None]) -> Callable[[], None]:
        CASES[name] = function
        return function

    return put


def chat(model: str = TEXT, edge: str = "first", **more: Any) -> Any:
    return client(edge).chat.completions.create(**{"model": model, "messages": HI, **more})


def respond(model: str = TEXT, edge: str = "first", **more: Any) -> Any:
    return client(edge).responses.create(**{"model": model, "input": "hi", **more})


def text_in(chunks: list[Any]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def told_in(events: list[Any]) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


def raises(kinds: Any, run_it: Callable[..., Any], *given: Any, **more: Any) -> Any:
    try:
        run_it(*given, **more)
    except kinds as error:
        return error
    raise AssertionError("no error")


def number_of(chunk: Any) -> int | None:
    number: int | None = (chunk.model_extra or {}).get("sequence_number")
    return number


def begun(model: str = LONG, edge: str = "first", **more: Any) -> tuple[str, Any, Iterator[Any]]:
    """A stream of which a piece of text has come, with its id."""
    made = client(edge).chat.completions.with_raw_response.create(model=model, messages=HI, stream=True, **more)
    stream = made.parse()
    reading = iter(stream)
    while not text_in([next(reading)]):
        pass
    return made.headers["x-stream-id"], stream, reading


@case("text")
def text() -> None:
    chunks = list(chat(stream=True))
    expect(text_in(chunks), WORDS)
    expect([chunk.choices[0].finish_reason for chunk in chunks][-1], "stop")
    expect(chat().choices[0].message.content, WORDS)
    events = list(respond(stream=True))
    expect(told_in(events), WORDS)
    expect(events[-1].response.output_text, WORDS)
    expect(respond().output_text, WORDS)
    with client().responses.stream(model=TEXT, input="hi") as stream:
        for _ in stream:
            pass
        expect(stream.get_final_response().output_text, WORDS)
    expect("scripted" in [model.id for model in client().models.list()], True)
    expect(client().models.retrieve("scripted").object, "model")


@case("own tools")
def own_tools() -> None:
    for is_streamed in (False, True):
        if is_streamed:
            with client().chat.completions.stream(model=CALLING, messages=HI, tools=TOOLS) as stream:
                choice = stream.get_final_completion().choices[0]
        else:
            choice = chat(CALLING, tools=TOOLS).choices[0]
        expect((choice.finish_reason, choice.message.content), ("tool_calls", CALLED[0]))
        [call] = choice.message.tool_calls
        expect((call.function.name, call.function.arguments), ("calculator", '{"expression":"6*7"}'))
        function = {"name": call.function.name, "arguments": call.function.arguments}
        turns = [
            *HI,
            {"role": "assistant", "content": CALLED[0],
             "tool_calls": [{"id": call.id, "type": "function", "function": function}]},
            {"role": "tool", "tool_call_id": call.id, "content": "42"},
        ]  # fmt: skip
        expect(chat(CALLING, messages=turns, tools=TOOLS).choices[0].message.content, CALLED[1])
    tools = [{"type": "function", "strict": False, **FUNCTION}]
    events = list(respond(CALLING, tools=tools, stream=True))
    said, call = events[-1].response.output
    expect((call.type, call.name, call.arguments), ("function_call", "calculator", '{"expression":"6*7"}'))
    items = [*HI, said.model_dump(exclude_none=True), call.model_dump(exclude_none=True),
             {"type": "function_call_output", "call_id": call.call_id, "output": "42"}]  # fmt: skip
    expect(respond(CALLING, input=items, tools=tools).output_text, CALLED[1])
    items[1:3] = [{"type": "item_reference", "id": each.id} for each in (said, call)]
    expect(respond(CALLING, input=items, tools=tools, edge="second").output_text, CALLED[1])


@case("server's tools")
def server_tools() -> None:
    more: Any = {"extra_body": {"enable_tools": True}}
    chunks = list(chat(CALLING, stream=True, **more))
    expect(text_in(chunks), "".join(CALLED))
    expect([chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.tool_calls], [])
    response = list(respond(CALLING, stream=True, **more))[-1].response
    first, call, second = response.output
    expect((call.type, call.name, call.output), ("mcp_call", "calculator", "42"))
    expect((first.content[0].text, second.content[0].text), CALLED)


def check_usage(usage: Any, names: tuple[str, str]) -> None:
    given, made = (getattr(usage, name) for name in names)
    expect((given, made, usage.total_tokens), (1_000, 200, 1_200))
    expect(getattr(usage, f"{names[0]}_details").cached_tokens, 400)
    expect(getattr(usage, f"{names[1]}_details").reasoning_tokens, 150)
    expect(round((usage.model_extra or {}).get("cost_usd", 0), 9), float(GIVEN["cost_usd"]))


@case("usage")
def usage() -> None:
    chunks = list(chat("acme", stream=True, stream_options={"include_usage": True}))
    expect([chunk.usage for chunk in chunks[:-1]], [None] * (len(chunks) - 1))
    for told in (chunks[-1].usage, chat("acme").usage):
        check_usage(told, ("prompt_tokens", "completion_tokens"))
    for response in (respond("acme"), list(respond("acme", stream=True))[-1].response):
        check_usage(response.usage, ("input_tokens", "output_tokens"))


@case("thinking")
def thinking() -> None:
    chunks = list(chat("acme", stream=True))
    extras = [chunk.choices[0].delta.model_extra or {} for chunk in chunks if chunk.choices]
    expect("".join(extra.get("reasoning_content") or "" for extra in extras), THOUGHT)
    message = chat("acme").choices[0].message
    expect((message.model_extra or {}).get("reasoning_content"), THOUGHT)
    events = list(respond("acme", stream=True, reasoning={"summary": "auto"}))
    expect("".join(e.delta for e in events if e.type == "response.reasoning_summary_text.delta"), THOUGHT)
    expect([item.type for item in events[-1].response.output], ["reasoning", "message"])
    expect(events[-1].response.output[0].summary[0].text, THOUGHT)
    again = [*HI, *(item.model_dump(exclude_none=True) for item in events[-1].response.output), *HI]
    expect(respond("acme", input=again).status, "completed")


@case("images")
def images() -> None:
    parts = [{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": PICTURE}}]
    expect(chat("acme", messages=[{"role": "user", "content": parts}]).choices[0].message.content, "pictures: 1")
    items = [{"type": "input_text", "text": "what is it?"}, {"type": "input_image", "image_url": PICTURE}]
    expect(respond("acme", input=[{"role": "user", "content": items}]).output_text, "pictures: 1")
    error = raises(openai.BadRequestError, lambda: chat(messages=[{"role": "user", "content": parts}]))
    expect(error.param, "messages[0].content[1]")
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": []}
    asked = [reasoning, {"role": "user", "content": items}]
    error = raises(openai.BadRequestError, lambda: respond(input=asked))
    expect(error.param, "input[1].content[1]")


@case("errors before")
def errors_before() -> None:
    for made in (chat, respond):
        error = raises(openai.NotFoundError, made, "no-such-model")
        expect((error.code, error.param), ("model_not_found", "model"))
        error = raises(openai.NotFoundError, made, "no-such-model", stream=True)
        expect(error.code, "model_not_found")
    for name in ("max_tokens", "max_completion_tokens"):
        given: dict[str, Any] = {name: 0}
        error = raises(openai.BadRequestError, chat, **given)
        expect(error.param, name)
        expect(str(error.message).count(name) > 0, True)
    expect(raises(openai.BadRequestError, lambda: chat(n=2)).param, "n")
    expect(raises(openai.BadRequestError, lambda: respond(max_output_tokens=0)).param, "max_output_tokens")
    expect(raises(openai.BadRequestError, lambda: respond(previous_response_id="r")).param, "previous_response_id")
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "no JSON"}
    wrong = [*HI, {"type": "reasoning", "id": "rs_1", "summary": []}, call,
             {"type": "function_call_output", "call_id": "c", "output": "x"}]  # fmt: skip
    expect(raises(openai.BadRequestError, lambda: respond(input=wrong)).param, "input[2].arguments")
    error = raises(openai.AuthenticationError, lambda: client(key="wrong").models.list())
    expect(error.code, "invalid_api_key")
    raises(openai.AuthenticationError, lambda: client(key="wrong").chat.completions.create(model=TEXT, messages=HI))
    error = raises(openai.InternalServerError, lambda: chat(BROKEN))
    expect(error.code, "provider_error")


@case("errors in the stream")
def errors_in_stream() -> None:
    seen: list[Any] = []
    error = raises(openai.APIError, lambda: seen.extend(chat(BROKEN, stream=True)))
    expect(error.code, "provider_error")
    events = list(respond(BROKEN, stream=True))
    expect(events[-1].type, "response.failed")
    expect((events[-1].response.status, events[-1].response.error.code), ("failed", "server_error"))
    expect(respond(BROKEN).status, "failed")


@case("cancel")
def cancel() -> None:
    stream_id, _, reading = begun()
    ask("POST", f"/api/streams/{stream_id}/cancel")
    expect(raises(openai.APIError, lambda: list(reading)).code, "cancelled")
    stream_id, stream, _ = begun(extra_body={"on_disconnect": "cancel"})
    stream.close()
    until_state(stream_id, "cancelled")
    responses = client().responses
    made = respond(LONG, background=True)
    expect(made.status in ("queued", "in_progress"), True)
    expect(client("second").responses.cancel(made.id).status, "cancelled")
    expect(responses.cancel(made.id).status, "cancelled")
    expect(responses.retrieve(made.id).status, "cancelled")
    expect(list(responses.retrieve(made.id, stream=True))[-1].response.status, "cancelled")
    responses.delete(made.id)
    raises(openai.NotFoundError, lambda: responses.retrieve(made.id))


@case("disconnect")
def disconnect() -> None:
    stream_id, stream, _ = begun()
    stream.close()
    until_state(stream_id, "cancelled")  # after its grace
    stream = respond(LONG, stream=True, background=True)
    response_id = next(iter(stream)).response.id
    stream.close()
    time.sleep(2)  # longer than the grace of those that do not run in the background
    expect(client().responses.retrieve(response_id).status, "in_progress")
    client().responses.cancel(response_id)


@case("resume")
def resume() -> None:
    made = client().chat.completions.with_raw_response.create(model=TEXT, messages=HI, stream=True)
    chunks = list(made.parse())
    completion_id = chunks[0].id
    numbers = [number for chunk in chunks if (number := number_of(chunk)) is not None]
    for after in numbers[:-1]:
        rest = client("second").get(
            f"/chat/completions/{completion_id}?stream=true&starting_after={after}", cast_to=object,
            stream=True, stream_cls=openai.Stream[openai.types.chat.ChatCompletionChunk],
        )  # fmt: skip
        before = [chunk for chunk in chunks if (number_of(chunk) or 0) <= after]
        again = [openai.types.chat.ChatCompletionChunk.model_validate(each) for each in rest]
        expect(text_in(before) + text_in(again), WORDS)
        expect(again[-1].choices[0].finish_reason, "stop")
    expect(client("second").chat.completions.retrieve(completion_id).choices[0].message.content, WORDS)
    events = [event.model_dump() for event in respond(stream=True)]
    expect([event["sequence_number"] for event in events], list(range(len(events))))
    response_id = events[0]["response"]["id"]
    other = client("second").responses
    for number in range(len(events)):
        rest = other.retrieve(response_id, stream=True, starting_after=number)
        expect([event.model_dump() for event in rest], events[number + 1 :])
    expect([event.model_dump() for event in other.retrieve(response_id, stream=True)], events)
    raises(openai.BadRequestError, lambda: other.retrieve(response_id, stream=True, starting_after=10_000))
    with other.stream(response_id=response_id, starting_after=7) as stream:  # asks for all, and drops by itself
        kept = [event.sequence_number for event in stream if hasattr(event, "sequence_number")]
    expect(min(kept) > 7, True)


@case("attach")
def attach() -> None:
    headers = {"Idempotency-Key": f"conformance-{time.time_ns()}"}
    stream_id, stream, _ = begun("scripted?tokens=60&interval_ms=30", extra_headers=headers)
    stream.close()
    more = {"extra_headers": headers, "stream": True}
    expect(
        text_in(list(chat("scripted?tokens=60&interval_ms=30", "second", **more))), "".join(f"w{n} " for n in range(60))
    )
    expect(state_of(stream_id), "completed")


@case("silence")
def silence() -> None:
    stream_id, _, reading = begun(SILENT)
    path = f"/chat/completions/chatcmpl-{stream_id}?stream=true&starting_after=1"
    kind = openai.types.chat.ChatCompletionChunk
    again = client("second").get(
        path, cast_to=object, stream=True, stream_cls=openai.Stream[openai.types.chat.ChatCompletionChunk]
    )
    rest = [kind.model_validate(each) for each in again]  # its events have ids, which makes comments dangerous
    expect(text_in(rest), words(2))
    pieces = [choice.delta.content for chunk in reading for choice in chunk.choices]
    expect(("".join(piece or "" for piece in pieces), "" in pieces), ("w1 ", True))
    expect(told_in(list(respond(SILENT, stream=True))), words(2))


@case("drain")
def drain() -> None:
    _, _, reading = begun(edge="drained")
    stream = iter(respond(LONG, edge="drained", stream=True, background=True))
    response_id = next(stream).response.id
    say(drain=True)
    raises(Exception, lambda: list(reading))  # until 3 it is the HTTP library's own
    raises(Exception, lambda: list(stream))
    client().responses.cancel(response_id)


@case("read elsewhere")
def elsewhere() -> None:
    made = client().chat.completions.with_raw_response.create(model=TEXT, messages=HI, stream=True)
    say(read=made.headers["x-stream-id"], text=text_in(list(made.parse())))


if __name__ == "__main__":
    run(CASES)
