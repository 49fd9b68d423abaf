"""Clients that nobody here wrote, unmodified: OpenAI's SDK over both of its dialects, and what `useChat` sends."""

from __future__ import annotations

import asyncio
import json
import signal
import time
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import openai
import pytest

from tests.fleet import Fleet
from tests.wire import Sse, call, text_of, words

MODEL = "scripted?tokens=12&interval_ms=5&tool_after=4"
SLOW = "scripted?tokens=2000&interval_ms=10"
HI: Any = [{"role": "user", "content": "hi"}]
KEYS = {"TOKENRELAY_API_KEYS": "a:secret-of-a-0123456789,b:secret-of-b-0123456789"}
WAIT_S = 20.0
CLIENTS: list[openai.OpenAI] = []


@pytest.fixture(scope="module", autouse=True)
def closed_clients() -> Iterator[None]:
    yield
    while CLIENTS:
        CLIENTS.pop().close()


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet(edges=2, workers=1, env={**KEYS, "TOKENRELAY_FRONT_GRACE_S": "1"}) as fleet:
        yield fleet


def client(fleet: Fleet, edge: int = 0, owner: str = "a") -> openai.OpenAI:
    return opened(f"{fleet.urls[edge]}/v1", f"secret-of-{owner}-0123456789")


def opened(base_url: str, api_key: str) -> openai.OpenAI:
    """Closed with the module: a connection that is left to the garbage is a warning in some later test."""
    made = openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=0, timeout=WAIT_S)
    CLIENTS.append(made)
    return made


def text_in(chunks: list[Any]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


# -- Chat Completions --------------------------------------------------------------------------------------------------


def test_a_stream_has_the_text_and_its_usage(fleet: Fleet) -> None:
    chunks = list(
        client(fleet).chat.completions.create(
            model=MODEL, messages=HI, stream=True, stream_options={"include_usage": True}
        )
    )
    assert text_in(chunks) == words(12)
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12
    assert not any(choice.delta.tool_calls for chunk in chunks for choice in chunk.choices)


def test_one_object_and_the_same_object_again(fleet: Fleet) -> None:
    made = client(fleet).chat.completions.create(model=MODEL, messages=HI)
    assert made.choices[0].message.content == words(12)
    again = client(fleet, 1).chat.completions.retrieve(made.id)
    assert again == made
    assert client(fleet).chat.completions.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client(fleet, 1).chat.completions.retrieve(made.id)


def test_a_long_completion_is_written_while_its_log_is_read(fleet: Fleet) -> None:
    made = client(fleet).chat.completions.create(model="scripted?tokens=3000&interval_ms=0", messages=HI)
    got = client(fleet, 1).chat.completions.with_raw_response.retrieve(made.id)
    assert "content-length" not in got.headers
    assert got.parse() == made
    assert made.choices[0].message.content == words(3000)


def test_refusals_have_the_sdks_classes_and_name_the_parameter(fleet: Fleet) -> None:
    asked = client(fleet).chat.completions
    with pytest.raises(openai.NotFoundError) as unknown:
        asked.create(model="no-such-model", messages=HI)
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as several:
        asked.create(model=MODEL, messages=HI, n=2)
    assert several.value.param == "n"
    with pytest.raises(openai.AuthenticationError) as stranger:
        opened(f"{fleet.urls[0]}/v1", "x").models.list()
    assert stranger.value.code == "invalid_api_key"
    with pytest.raises(openai.InternalServerError) as failed:
        asked.create(model="scripted?tokens=9&fail_after=3", messages=HI)
    assert failed.value.code == "provider_error"
    with pytest.raises(openai.APIError):
        list(asked.create(model="scripted?tokens=9&fail_after=3", messages=HI, stream=True))


def test_models_are_listed_and_found_by_any_name(fleet: Fleet) -> None:
    models = client(fleet).models
    assert "scripted" in [model.id for model in models.list()]
    assert models.retrieve("scripted").object == "model"
    with pytest.raises(openai.NotFoundError):
        models.retrieve("no/such?model")


def test_a_stream_begun_here_is_read_over_our_own_wire_and_resumed_here(fleet: Fleet) -> None:
    made = client(fleet).chat.completions.with_raw_response.create(model=MODEL, messages=HI, stream=True)
    stream_id = made.headers["x-stream-id"]
    chunks = list(made.parse())
    extras = [chunk.model_extra or {} for chunk in chunks]
    numbers = [extra["sequence_number"] for extra in extras if "sequence_number" in extra]
    assert numbers == sorted(set(numbers))

    async def scene() -> None:
        headers = {"Authorization": "Bearer secret-of-a-0123456789"}
        async with Sse.get(fleet.urls[1], stream_id, headers=headers) as own:
            assert text_of(await own.take()) == words(12)
        for after in numbers[:-1]:
            url = f"{fleet.urls[1]}/v1/chat/completions/chatcmpl-{stream_id}?stream=true&starting_after={after}"
            request = urllib.request.Request(url, headers=headers)
            body = (await asyncio.to_thread(urllib.request.urlopen, request)).read().decode()
            lines = [line[6:] for line in body.splitlines() if line.startswith("data: ")]
            assert lines[-1] == "[DONE]"
            rest = [json.loads(line) for line in lines[:-1]]
            told = [choice["delta"].get("content", "") for value in rest for choice in value["choices"]]
            before = text_in([c for c in chunks if (c.model_extra or {}).get("sequence_number", 0) <= after])
            assert before + "".join(told) == words(12)

    asyncio.run(scene())


def test_the_same_idempotency_key_attaches(fleet: Fleet) -> None:
    headers = {"Idempotency-Key": f"front-{time.time_ns()}"}
    first = client(fleet).chat.completions.create(model=MODEL, messages=HI, stream=True, extra_headers=headers)
    second = client(fleet, 1).chat.completions.create(model=MODEL, messages=HI, stream=True, extra_headers=headers)
    assert text_in(list(first)) == text_in(list(second)) == words(12)


def test_closing_the_stream_stops_the_answer_after_its_grace(fleet: Fleet) -> None:
    made = client(fleet).chat.completions.with_raw_response.create(model=SLOW, messages=HI, stream=True)
    stream_id = made.headers["x-stream-id"]
    stream = made.parse()
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + WAIT_S
    while state_of(fleet, stream_id) != "cancelled":
        assert time.monotonic() < deadline
        time.sleep(0.2)


def state_of(fleet: Fleet, stream_id: str) -> str:
    headers = {"Authorization": "Bearer secret-of-a-0123456789", "Accept": "application/json"}
    _, told, _ = asyncio.run(call("GET", f"{fleet.urls[0]}/api/streams/{stream_id}", headers=headers))
    return str(told["state"])


def test_foreign_answers_are_not_found(fleet: Fleet) -> None:
    made = client(fleet).chat.completions.create(model=MODEL, messages=HI)
    with pytest.raises(openai.NotFoundError):
        client(fleet, owner="b").chat.completions.retrieve(made.id)


CALLING = "scripted?tokens=9&tool_after=4"
PARAMETERS: Any = {"type": "object", "properties": {"expression": {"type": "string"}}}
CALCULATOR: Any = {"name": "calculator", "parameters": PARAMETERS}


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_declared_function_is_the_callers_even_if_the_server_has_one_of_its_name(
    fleet: Fleet, is_streamed: bool
) -> None:
    asked = client(fleet).chat.completions
    tools: Any = [{"type": "function", "function": CALCULATOR}]
    if is_streamed:
        with asked.stream(model=CALLING, messages=HI, tools=tools) as stream:
            made: Any = stream.get_final_completion()
    else:
        made = asked.create(model=CALLING, messages=HI, tools=tools)
    choice = made.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", words(4))
    calls = choice.message.tool_calls
    assert [call.function.name for call in calls] == ["calculator"]
    given = [{"id": c.id, "type": "function", "function": c.function.model_dump(include={"name", "arguments"})}
             for c in calls]  # fmt: skip
    turns = [
        *HI,
        {"role": "assistant", "content": choice.message.content, "tool_calls": given},
        {"role": "tool", "tool_call_id": calls[0].id, "content": "42"},
    ]
    rest = asked.create(model=CALLING, messages=turns, tools=tools)
    assert words(4) + (rest.choices[0].message.content or "") == words(9)


# -- Responses ---------------------------------------------------------------------------------------------------------


def test_responses_are_resumed_at_every_number_on_another_edge(fleet: Fleet) -> None:
    events = list(client(fleet).responses.create(model=MODEL, input="hi", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == words(12)
    told = [event.model_dump() for event in events]
    response_id = events[-1].response.id
    other = client(fleet, 1).responses
    assert [event.model_dump() for event in other.retrieve(response_id, stream=True)] == told
    for after in range(len(events)):
        rest = other.retrieve(response_id, stream=True, starting_after=after)
        assert [event.model_dump() for event in rest] == told[after + 1 :]
    assert other.retrieve(response_id).output_text == words(12)


def test_a_long_response_is_written_while_its_log_is_read(fleet: Fleet) -> None:
    made = client(fleet).responses.create(model="scripted?tokens=3000&interval_ms=0&tool_after=1500", input="hi",
                                          extra_body={"enable_tools": True})  # fmt: skip
    got = client(fleet, 1).responses.with_raw_response.retrieve(made.id)
    assert "content-length" not in got.headers
    again = got.parse()
    assert again == made
    assert again.output_text == words(3000)
    assert [item.type for item in again.output] == ["message", "mcp_call", "message"]


def test_the_sdks_helper_accepts_a_stream(fleet: Fleet) -> None:
    with client(fleet).responses.stream(model=MODEL, input="hi") as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == words(12)


def test_background_is_left_retrieved_cancelled_and_deleted(fleet: Fleet) -> None:
    responses = client(fleet).responses
    made = responses.create(model=SLOW, input="hi", background=True)
    assert made.status in ("queued", "in_progress")
    assert responses.cancel(made.id).status == "cancelled"
    assert responses.cancel(made.id).status == "cancelled"
    responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        responses.retrieve(made.id)


def test_the_input_can_be_read_while_the_answer_runs(fleet: Fleet) -> None:
    responses = client(fleet).responses
    made = responses.create(model=SLOW, input=[{"role": "user", "content": "first"}, *HI], background=True)
    listed = [item.model_dump()["content"][0]["text"] for item in responses.input_items.list(made.id, order="asc").data]
    assert listed == ["first", "hi"]
    responses.cancel(made.id)
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            responses.input_items.list(made.id)
        except openai.NotFoundError:
            break
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_an_earlier_item_is_referred_to(fleet: Fleet) -> None:
    first = client(fleet).responses.create(model="scripted?tokens=3", input="hi")
    items: Any = [{"role": "user", "content": "hi"}, {"type": "item_reference", "id": first.output[0].id}, *HI]
    assert client(fleet, 1).responses.create(model="scripted?tokens=2", input=items).output_text == words(2)
    with pytest.raises(openai.NotFoundError):
        client(fleet, owner="b").responses.create(model="scripted?tokens=2", input=items)


def test_a_declared_function_of_responses_is_the_callers(fleet: Fleet) -> None:
    tools: Any = [{"type": "function", "strict": False, **CALCULATOR}]
    made = client(fleet).responses.create(model=CALLING, input="hi", tools=tools)
    text, called = made.output
    assert (called.type, getattr(called, "name", "")) == ("function_call", "calculator")
    items: Any = [
        *HI,
        {"type": "item_reference", "id": text.id},
        {"type": "item_reference", "id": called.id},
        {"type": "function_call_output", "call_id": getattr(called, "call_id", ""), "output": "42"},
    ]
    rest = client(fleet, 1).responses.create(model=CALLING, input=items, tools=tools)
    assert made.output_text + rest.output_text == words(9)


def test_a_cursor_ahead_is_refused_while_the_answer_runs(fleet: Fleet) -> None:
    made = client(fleet).responses.create(model=SLOW, input="hi", background=True)
    with pytest.raises(openai.BadRequestError) as refused:
        client(fleet, 1).responses.retrieve(made.id, stream=True, starting_after=1_000_000)
    assert refused.value.param == "starting_after"
    client(fleet).responses.cancel(made.id)


@pytest.mark.parametrize("field", ["previous_response_id", "conversation"])
def test_what_is_not_kept_is_refused_by_name(fleet: Fleet, field: str) -> None:
    given: Any = {field: "x_1"}
    with pytest.raises(openai.BadRequestError) as refused:
        client(fleet).responses.create(model=MODEL, input="hi", **given)
    assert refused.value.param == field


# -- the AI SDK's UI message stream ------------------------------------------------------------------------------------


def ui(fleet: Fleet, path: str, body: Any = None, *, edge: int = 0, method: str | None = None) -> tuple[int, str]:
    headers = {"Authorization": "Bearer secret-of-a-0123456789", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(fleet.urls[edge] + path, data=data, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def asked(chat_id: str, model: str = MODEL) -> dict[str, Any]:
    message = {"id": "1", "role": "user", "parts": [{"type": "text", "text": "hi"}]}
    return {"id": chat_id, "trigger": "submit-message", "messages": [message], "model": model}


def deltas(body: str) -> str:
    values = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: {")]
    return "".join(value["delta"] for value in values if value["type"] == "text-delta")


@pytest.mark.parametrize("path", ["/api/chat", "/api/ui/chat"])
def test_a_chat_is_streamed_and_replayed_by_its_id(fleet: Fleet, path: str) -> None:
    chat_id = f"a b/\u00e4?#%-{path}"
    status, body = ui(fleet, path, asked(chat_id))
    assert (status, deltas(body)) == (200, words(12))
    assert body.endswith("data: [DONE]\n\n")
    status, again = ui(fleet, f"{path}/{quote(chat_id, safe='')}/stream", edge=1)
    assert (status, deltas(again)) == (200, words(12))
    assert ui(fleet, f"{path}/nobody/stream")[0] == 204


def test_stop_ends_the_answer_that_is_under_way(fleet: Fleet) -> None:
    async def scene() -> None:
        running = asyncio.create_task(asyncio.to_thread(ui, fleet, "/api/chat", asked("stopped", SLOW)))
        deadline = time.monotonic() + WAIT_S
        while (await asyncio.to_thread(ui, fleet, "/api/chat/stopped/stop", {}))[0] != 200 or not running.done():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
        _, body = await running
        assert '{"type":"abort"}' in body
        assert (await asyncio.to_thread(ui, fleet, "/api/chat/stopped/stream"))[0] == 204

    asyncio.run(scene())


def test_a_refusal_is_a_sentence(fleet: Fleet) -> None:
    status, body = ui(fleet, "/api/ui/chat", asked("x", "no-such-model"))
    assert status == 422
    assert body.startswith("model:")


# -- a drain -----------------------------------------------------------------------------------------------------------


def test_a_drain_never_ends_a_stream_that_looks_whole() -> None:
    with Fleet(edges=1, workers=1, env={"TOKENRELAY_DRAIN_S": "1"}) as fleet:
        made = opened(f"{fleet.urls[0]}/v1", "x")
        stream = made.chat.completions.create(model=SLOW, messages=HI, stream=True)
        reading = iter(stream)
        next(reading)
        fleet.edges[0].send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIConnectionError):
            for _ in reading:
                pass
