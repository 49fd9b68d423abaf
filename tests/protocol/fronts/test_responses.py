"""Front B, Responses: events that the official SDK's helper accepts, with numbers that are a function of the log."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.protocol.fronts.cases import LOGS, STREAM, entries_of, text_of
from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.events import Token, ToolCall
from tokenrelay.protocol.fronts import openai, responses
from tokenrelay.protocol.fronts.asked import Remembered
from tokenrelay.protocol.fronts.responses_document import Document
from tokenrelay.protocol.fronts.responses_fold import Fold
from tokenrelay.protocol.store.entries import pack, unpack_entry

KEPT = Remembered("responses", 1_793_880_000, options={"metadata": {"a": "b"}, "background": False})
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def told(name: str, after: int = -1, kept: Remembered = KEPT) -> list[dict[str, Any]]:
    fold = Fold(STREAM, kept, "gpt", after)
    frames = fold.begin() + b"".join(fold.take(entry, number) for number, entry in enumerate(entries_of(name), 1))
    made = []
    for block in frames.decode().split("\n\n")[:-1]:
        kind, data = block.split("\n")
        value = json.loads(data.removeprefix("data: "))
        assert kind == f"event: {value['type']}"
        made.append(value)
    return made


@pytest.mark.parametrize("name", LOGS)
def test_numbers_are_dense_from_zero_and_the_same_for_every_reader(name: str) -> None:
    events = told(name)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for after in range(-1, len(events)):
        assert told(name, after) == events[after + 1 :]


@pytest.mark.parametrize("name", LOGS)
def test_every_event_is_one_that_the_sdk_knows(name: str) -> None:
    for event in told(name):
        made = EVENT.validate_python(event)
        assert made.type == event["type"]


@pytest.mark.parametrize("name", LOGS)
def test_the_official_sdk_folds_them_to_the_text_and_the_calls(name: str) -> None:
    state: Any = ResponseStreamState(text_format=omit, input_tools=omit)
    for event in told(name):
        state.handle_event(EVENT.validate_python(event))
    last = told(name)[-1]
    assert last["type"] in ("response.completed", "response.incomplete", "response.failed")
    made = Response.model_validate(last["response"])
    assert made.output_text == text_of(name)
    own = [event for event in LOGS[name] if isinstance(event, ToolCall) and event.own]
    calls = [item for item in made.output if item.type == "function_call"]
    assert [(call.call_id, call.name, json.loads(call.arguments)) for call in calls] == [
        (event.call_id, event.name, event.input) for event in own
    ]


@pytest.mark.parametrize("name", LOGS)
def test_items_are_told_once_begun_and_once_done_before_the_end(name: str) -> None:
    events = told(name)
    added = [event["item"]["id"] for event in events if event["type"] == "response.output_item.added"]
    done = [event["item"]["id"] for event in events if event["type"] == "response.output_item.done"]
    final = [item["id"] for item in events[-1]["response"]["output"]]
    assert added == final
    assert sorted(added) == sorted(done)
    assert len(set(added)) == len(added)


@pytest.mark.parametrize(
    ("name", "kind", "status"),
    [
        ("text", "response.completed", "completed"),
        ("own call", "response.completed", "completed"),
        ("length", "response.incomplete", "incomplete"),
        ("filtered", "response.incomplete", "incomplete"),
        ("cancelled", "response.incomplete", "cancelled"),
        ("failed", "response.failed", "failed"),
        ("failed at once", "response.failed", "failed"),
    ],
)
def test_an_end_has_its_event_and_its_status(name: str, kind: str, status: str) -> None:
    last = told(name)[-1]
    assert (last["type"], last["response"]["status"]) == (kind, status)


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize("name", LOGS)
def test_the_object_that_is_written_while_the_log_is_read_is_the_folds(name: str, size: int) -> None:
    fold = Fold(STREAM, KEPT, "gpt")
    fold.begin()
    for count in range(len(entries_of(name)) + 1):
        assert json.loads(written(name, count, size)) == fold.object
        for entry in entries_of(name)[count : count + 1]:
            fold.take(entry, count + 1)


def written(name: str, count: int, size: int) -> str:
    made = Document(Fold(STREAM, KEPT, "gpt", sys.maxsize))
    entries = list(enumerate(entries_of(name), 1))[:count]
    pages = [entries[first : first + size] for first in range(0, count, size)]
    return "".join([made.begin(), *map(made.take, pages), made.end()])


def test_no_more_of_the_text_is_held_than_a_page() -> None:
    fold = Fold(STREAM, KEPT, "gpt", sys.maxsize)
    made = Document(fold)
    made.begin()
    token = unpack_entry(pack(Token(1, "gpt", "x" * 1_000)))
    for number in range(1, 100):
        told = made.take([(number, token)])
        assert len(told) < 1_500
        assert fold.cut() == ""
    assert len(made.end()) < 1_500


def test_a_status_stands_in_for_one_that_runs() -> None:
    for name, status in (("text", "completed"), ("nothing", "completed")):
        made = Document(Fold(STREAM, KEPT, "gpt", sys.maxsize))
        whole = made.begin() + made.take(list(enumerate(entries_of(name), 1))) + made.end("cancelled")
        assert json.loads(whole)["status"] == status
    made = Document(Fold(STREAM, KEPT, "gpt", sys.maxsize))
    assert json.loads(made.begin() + made.end("cancelled"))["status"] == "cancelled"


def test_background_begins_as_queued_and_options_are_repeated() -> None:
    events = told("text", kept=Remembered("responses", 5, options={"background": True, "temperature": 0.5}))
    assert [event["type"] for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert events[0]["response"]["status"] == "queued"
    assert events[-1]["response"]["temperature"] == 0.5
    assert events[-1]["response"]["usage"]["input_tokens_details"]["cached_tokens"] == 2


# -- requests ----------------------------------------------------------------------------------------------------------


def parsed(given: Any, **body: Any) -> Any:
    raw = json.dumps({"model": "m", "input": given, **body}).encode()
    return responses.parse(raw, on_disconnect="grace:30", now_s=7, items=ITEMS)


ITEMS = {"msg_1": {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "before"}]}}


def test_items_become_turns() -> None:
    made = parsed([
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"type": "item_reference", "id": "msg_1"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "f", "arguments": '{"x":1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "function_call_output", "call_id": "c2", "output": "2"},
    ], instructions="be brief", max_output_tokens=9, background=True)  # fmt: skip
    turns = made.request.conversation
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "tool", "tool"]
    assert [turn.content for turn in turns] == ["be brief", "ab", "before", "1", "2"]
    assert [call.id for call in turns[2].tool_calls] == ["c1", "c2"]
    assert (made.request.max_tokens, made.request.on_disconnect) == (9, "continue")
    assert made.remembered.options == {"max_output_tokens": 9, "background": True}


def test_declared_functions_are_the_callers() -> None:
    made = parsed("hi", tools=[{"type": "function", "name": "calculator", "parameters": None, "strict": True}])
    assert made.request.tools[0].own
    assert made.request.tools[0].function.name == "calculator"


USER: Any = {"role": "user", "content": "hi"}
THOUGHT: Any = {"type": "reasoning", "id": "rs_1", "summary": []}
WORDS: Any = {"type": "input_text", "text": "what is it?"}
PICTURE: Any = {"type": "input_image", "image_url": "ftp://nowhere"}
CALL: Any = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
RESULT: Any = {"type": "function_call_output", "call_id": "c1", "output": "1"}
TOOL: Any = {"type": "function", "name": "f", "parameters": {}}


@pytest.mark.parametrize(
    ("field", "given", "body"),
    [
        ("previous_response_id", "hi", {"previous_response_id": "resp_1"}),
        ("conversation", "hi", {"conversation": "conv_1"}),
        ("prompt", "hi", {"prompt": {"id": "p"}}),
        ("tools[0].type", "hi", {"tools": [{"type": "web_search"}]}),
        ("input", [], {}),
        ("input", 7, {}),
        ("input[0].type", [{"type": "computer_call"}], {}),
        ("input[0].content[0]", [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}], {}),
        ("input", [{"type": "item_reference", "id": "msg_9"}], {}),
        ("max_output_tokens", "hi", {"max_output_tokens": 0}),
        ("truncation", "hi", {"truncation": "hard"}),
        ("input[2].content[1].image_url", [THOUGHT, USER, {"role": "user", "content": [WORDS, PICTURE]}], {}),
        ("input[1].role", [THOUGHT, {"role": "wizard", "content": "x"}], {}),
        ("input[2].arguments", [USER, THOUGHT, {**CALL, "arguments": "{"}, RESULT], {}),
        ("input[3].call_id", [USER, CALL, THOUGHT, {**CALL, "name": "g"}, RESULT], {}),
        ("input[3].call_id", [USER, CALL, RESULT, {**RESULT, "call_id": "c9"}], {}),
        ("input[2].output[0].image_url", [USER, CALL, {**RESULT, "output": [PICTURE]}], {}),
        ("tools[1].parameters", "hi", {"tools": [TOOL, {**TOOL, "name": "g", "parameters": 7}]}),
        ("text.format.name", "hi", {"text": {"format": {"type": "json_schema", "name": "", "schema": {}}}}),
    ],
)
def test_a_refusal_names_the_parameter(field: str, given: Any, body: dict[str, Any]) -> None:
    with pytest.raises(TokenrelayError) as caught:
        parsed(given, **body)
    assert openai.error_object(caught.value)["error"]["param"] in (field, None)
    assert caught.value.code in ("VALIDATION_ERROR", "NOT_FOUND")


def test_references_are_found_for_whoever_has_the_logs() -> None:
    assert responses.references({"input": [{"type": "item_reference", "id": "a"}, {"role": "user"}, 3]}) == ["a"]
    assert responses.references({"input": "x"}) == []
