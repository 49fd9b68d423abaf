"""Front C, the AI SDK's UI message stream: chunks in the order its client demands, messages read back as turns."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.protocol.fronts.cases import LOGS, STREAM, WHOLE, entries_of, text_of
from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.events import Failure
from tokenrelay.protocol.fronts import ui
from tokenrelay.protocol.fronts.asked import Remembered
from tokenrelay.protocol.store.entries import pack, unpack_entry


def told(name: str, kept: Remembered | None = None) -> list[dict[str, Any]]:
    fold = ui.Fold(STREAM, kept or Remembered("ui", 1, options={"own": ["weather"]}))
    frames = b"".join(fold.take(entry, number) for number, entry in enumerate(entries_of(name), 1)).decode()
    lines = [line.removeprefix("data: ") for line in frames.split("\n\n")[:-1]]
    assert lines[-1] == "[DONE]"
    assert frames.count("[DONE]") == 1
    return [json.loads(line) for line in lines[:-1]]


@pytest.mark.parametrize("name", LOGS)
def test_parts_are_begun_and_ended_and_their_pieces_make_the_text(name: str) -> None:
    open_part, text = "", ""
    for chunk in told(name):
        kind = chunk["type"]
        if kind in ("text-start", "reasoning-start"):
            assert not open_part
            open_part = kind.removesuffix("-start")
        elif kind in ("text-delta", "reasoning-delta"):
            assert open_part == kind.removesuffix("-delta")
            text += chunk["delta"] if kind == "text-delta" else ""
        elif kind in ("text-end", "reasoning-end"):
            assert open_part == kind.removesuffix("-end")
            open_part = ""
        elif kind in ("tool-input-available", "tool-output-available", "finish-step", "finish", "abort", "error"):
            assert not open_part
    assert not open_part
    assert text == text_of(name)


@pytest.mark.parametrize("name", LOGS)
def test_steps_are_balanced(name: str) -> None:
    kinds = [chunk["type"] for chunk in told(name)]
    if name in WHOLE:
        assert kinds.count("start-step") == kinds.count("finish-step")
        assert kinds[-2:] == ["finish-step", "finish"]


def test_a_new_step_begins_after_a_tool_has_answered() -> None:
    kinds = [chunk["type"] for chunk in told("our tool between texts")]
    assert kinds == [
        "start", "start-step", "text-start", "text-delta", "text-end", "tool-input-available", "tool-output-available",
        "finish-step", "start-step", "text-start", "text-delta", "text-delta", "text-end", "finish-step", "finish",
    ]  # fmt: skip


def test_only_tools_of_the_server_are_told_as_executed() -> None:
    ours = next(chunk for chunk in told("our tool failed") if chunk["type"] == "tool-input-available")
    own = next(chunk for chunk in told("own call") if chunk["type"] == "tool-input-available")
    assert (ours["providerExecuted"], ours["dynamic"]) == (True, True)
    assert not own.keys() & {"providerExecuted", "dynamic"}
    shown = next(chunk for chunk in told("arguments shown") if chunk["type"] == "tool-input-start")
    assert shown == {"type": "tool-input-start", "toolCallId": "c2", "toolName": "weather"}


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("text", {"type": "finish", "finishReason": "stop"}),
        ("length", {"type": "finish", "finishReason": "length"}),
        ("filtered", {"type": "finish", "finishReason": "content-filter"}),
        ("own call", {"type": "finish", "finishReason": "tool-calls"}),
        ("cancelled", {"type": "abort"}),
        ("failed", {"type": "error", "errorText": "the provider failed"}),
    ],
)
def test_each_end_has_its_chunk(name: str, last: dict[str, Any]) -> None:
    assert told(name)[-1] == last


def test_the_message_goes_on_in_the_assistants_where_a_tool_has_answered() -> None:
    assert told("text")[0]["messageId"] == f"msg_{STREAM}"
    assert told("text", Remembered("ui", 1, options={"message_id": "m7"}))[0]["messageId"] == "m7"


# -- requests ----------------------------------------------------------------------------------------------------------


def parsed(*messages: dict[str, Any], **body: Any) -> ui.UiAsked:
    told = {"id": "chat 1/\u00e4", "messages": list(messages), "trigger": "submit-message", **body}
    return ui.parse(json.dumps(told).encode(), now_s=7)


def message(role: str, *parts: dict[str, Any], id: str = "m") -> dict[str, Any]:  # noqa: A002
    return {"id": id, "role": role, "parts": list(parts)}


ASK = message("user", {"type": "text", "text": "weather?"})


def test_steps_become_turns_with_their_calls_and_results() -> None:
    made = parsed(
        message("system", {"type": "text", "text": "be brief"}),
        ASK,
        message(
            "assistant",
            {"type": "step-start"},
            {"type": "reasoning", "text": "hm"},
            {"type": "text", "text": "I look."},
            {"type": "tool-weather", "toolCallId": "c1", "state": "output-available",
             "input": {"a": 1}, "output": {"t": 2}},
            {"type": "dynamic-tool", "toolName": "x", "toolCallId": "c2", "state": "output-error",
             "input": {}, "errorText": "no"},
            {"type": "tool-files", "toolCallId": "c3", "state": "output-available",
             "providerExecuted": True, "output": "y"},
            {"type": "tool-weather", "toolCallId": "c4", "state": "input-available", "input": {}},
            {"type": "step-start"},
            {"type": "text", "text": "Fine."},
            id="a1",
        ),
    )  # fmt: skip
    turns = made.asked.request.messages or []
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "tool", "tool", "assistant"]
    assert [turn.content for turn in turns] == ["be brief", "weather?", "I look.", '{"t":2}', "no", "Fine."]
    assert [call.id for call in turns[2].tool_calls or []] == ["c1", "c2"]
    assert made.asked.remembered.options["message_id"] == "a1"
    assert made.chat_id == "chat 1/\u00e4"


def test_the_apps_own_fields_are_passed_on_and_functions_are_the_callers() -> None:
    tools = [{"type": "function", "function": {"name": "calculator"}}]
    made = parsed(ASK, model="m", system="s", max_tokens=5, tools=tools, userId=9)
    request = made.asked.request
    assert (request.model, request.system, request.max_tokens, request.stream) == ("m", "s", 5, True)
    assert request.tools is not None
    assert getattr(request.tools[0], "own", False)
    assert made.asked.remembered.options == {"own": ["calculator"]}


@pytest.mark.parametrize(
    ("body", "is_ours"),
    [
        ({"trigger": "submit-message", "messages": [ASK]}, True),
        ({"trigger": "regenerate-message", "messages": []}, True),
        ({"trigger": "other", "messages": [ASK]}, False),
        ({"messages": [ASK]}, False),
        ({"trigger": "submit-message", "messages": [{"role": "user", "content": "x"}]}, False),
        ([], False),
    ],
)
def test_a_body_is_told_apart_by_its_trigger_and_its_parts(body: Any, is_ours: bool) -> None:
    assert ui.is_ours(body) is is_ours


STEP: Any = {"type": "step-start"}
WORDS: Any = {"type": "text", "text": "I look."}
SHOWN: Any = ({"type": "text", "text": ""}, WORDS, {"type": "file", "mediaType": "image/png", "url": "ftp://x"})
CALL: Any = {"type": "tool-f", "toolCallId": "c1", "state": "output-available", "input": {}, "output": "1"}
OTHER: Any = {**CALL, "type": "dynamic-tool", "toolName": "a b"}


def test_usage_is_told_where_it_was_asked_for() -> None:
    made = parsed(ASK, stream_options={"include_usage": True})
    assert made.asked.remembered.with_usage
    assert told("text", made.asked.remembered)[-1]["messageMetadata"]["usage"]["totalTokens"] == 12
    assert "messageMetadata" not in told("text", parsed(ASK).asked.remembered)[-1]


def test_thinking_and_arguments_are_shown_unless_the_body_says_otherwise() -> None:
    assert parsed(ASK).request.show == ["thinking", "tool_input"]
    assert parsed(ASK, show=[]).request.show == []


def test_a_part_that_a_worker_refuses_has_the_name_it_has_in_the_chat() -> None:
    picture = {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,aGk="}
    kept = parsed(ASK, message("user", {"type": "text", "text": ""}, WORDS, picture)).asked.remembered
    field = "messages[1].content[1]"
    failed = pack(Failure(1, "VALIDATION_ERROR", f"{field}: no pictures", False, field=field))
    frames = ui.Fold(STREAM, kept).take(unpack_entry(failed), 1).decode()
    assert json.loads(frames.split("\n")[0][6:])["errorText"] == "messages[1].parts[2]: no pictures"


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("id", {"id": ""}),
        ("id", {"id": 7}),
        ("messages", {"messages": []}),
        ("messages[0]", {"messages": ["x"]}),
        ("messages[0].parts[0]", {"messages": [message("user", {"text": "x"})]}),
        ("messages[0].role", {"messages": [message("tool", {"type": "text", "text": "x"})]}),
        ("messages[1].parts[2].url", {"messages": [ASK, message("user", *SHOWN)]}),
        ("messages[2].parts[3].toolCallId", {"messages": [ASK, ASK, message("assistant", STEP, WORDS, CALL, CALL)]}),
        ("messages[1].parts[4].toolName", {"messages": [ASK, message("assistant", STEP, CALL, STEP, WORDS, OTHER)]}),
    ],
)
def test_a_refusal_names_its_field(field: str, body: dict[str, Any]) -> None:
    with pytest.raises(TokenrelayError) as caught:
        ui.parse(json.dumps({"id": "c", "messages": [ASK], "trigger": "submit-message", **body}).encode(), now_s=1)
    assert caught.value.fields["field"] == field
