"""What can be asked for, in each dialect's own form: on the wire, or named as left out, or refused by its field."""

from __future__ import annotations

import asyncio
import base64
from typing import Any, Final

import aiohttp
import msgspec
import pytest

from tests.workers.asking import HI, answer, ask, in_turn, refusal
from tests.workers.oracle.cases import DIALECTS
from tests.workers.oracle.test_oracle import ours
from tests.workers.upstream import Upstream
from tokenrelay.workers.conversation import Audio, File, Image, Message, ModelRequest, Text, ToolSpec, ToolUse
from tokenrelay.workers.providers.base import Accepts
from tokenrelay.workers.providers.local import Local
from tokenrelay.workers.providers.scripted import Scripted

TOOLS: Final = [ToolSpec("f", "adds", {"type": "object", "properties": {"a": {"type": "integer"}}})]
THINKS: Final = Accepts(thinks=True, efforts=("low", "medium", "high"), max_output=1000)
SCHEMA: Final = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}
FORMAT: Final = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
ONE: Final = {"type": "function", "function": {"name": "f"}}

OUT: Final = "left out"
# field: (request's fields, {dialect: where and what on the wire, or OUT})
FIELDS: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "effort": ({"effort": "high"}, {
        "chat_completions": ("reasoning_effort", "high"),
        "responses": ("reasoning", {"effort": "high", "summary": "auto"}),
        "anthropic": ("output_config", {"effort": "high"}),
        "gemini": ("generationConfig", {"thinkingConfig": {"includeThoughts": True, "thinkingLevel": "HIGH"}}),
    }),
    "response_format: json_object": ({"response_format": {"type": "json_object"}}, {
        "chat_completions": ("response_format", {"type": "json_object"}),
        "responses": ("text", {"format": {"type": "json_object"}}),
        "anthropic": (OUT, "response_format"),
        "gemini": ("generationConfig", {
            "thinkingConfig": {"includeThoughts": True}, "responseMimeType": "application/json"}),
    }),
    "response_format: json_schema": ({"response_format": FORMAT}, {
        "chat_completions": ("response_format", FORMAT),
        "responses": ("text", {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}}),
        "anthropic": ("output_config", {"format": {"type": "json_schema", "schema": SCHEMA}}),
        "gemini": ("generationConfig", {
            "thinkingConfig": {"includeThoughts": True},
            "responseMimeType": "application/json", "responseJsonSchema": SCHEMA}),
    }),
    "tool_choice: auto": ({"tools": TOOLS, "tool_choice": "auto"}, {
        "chat_completions": ("tool_choice", "auto"), "responses": ("tool_choice", "auto"),
        "anthropic": ("tool_choice", {"type": "auto"}),
        "gemini": ("toolConfig", {"functionCallingConfig": {"mode": "AUTO"}}),
    }),
    "tool_choice: none": ({"tools": TOOLS, "tool_choice": "none"}, {
        "chat_completions": ("tool_choice", "none"), "responses": ("tool_choice", "none"),
        "anthropic": ("tool_choice", {"type": "none"}),
        "gemini": ("toolConfig", {"functionCallingConfig": {"mode": "NONE"}}),
    }),
    "tool_choice: required": ({"tools": TOOLS, "tool_choice": "required"}, {
        "chat_completions": ("tool_choice", "required"), "responses": ("tool_choice", "required"),
        "anthropic": (OUT, "tool_choice"),  # a model that thinks refuses to be made to
        "gemini": ("toolConfig", {"functionCallingConfig": {"mode": "ANY"}}),
    }),
    "tool_choice: one": ({"tools": TOOLS, "tool_choice": ONE}, {
        "chat_completions": ("tool_choice", ONE),
        "responses": ("tool_choice", {"type": "function", "name": "f"}),
        "anthropic": (OUT, "tool_choice"),
        "gemini": ("toolConfig", {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}}),
    }),
    "parallel_tool_calls": ({"tools": TOOLS, "parallel_tool_calls": False}, {
        "chat_completions": ("parallel_tool_calls", False), "responses": ("parallel_tool_calls", False),
        "anthropic": ("tool_choice", {"type": "auto", "disable_parallel_tool_use": True}),
        "gemini": (OUT, "parallel_tool_calls"),
    }),
    "cache_key": ({"cache_key": "k"}, {
        "chat_completions": None, "responses": ("prompt_cache_key", "k"),
        "anthropic": ("cache_control", {"type": "ephemeral"}), "gemini": None,
    }),
}  # fmt: skip


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("field", FIELDS)
def test_what_is_asked_is_on_the_wire_or_named(dialect: str, field: str) -> None:
    fields, wire = FIELDS[field]
    asked = ask(dialect, answer(dialect), ModelRequest("m", HI, **fields), accepts=THINKS)
    bare = ask(dialect, answer(dialect), ModelRequest("m", HI, tools=fields.get("tools", ())), accepts=THINKS)
    assert asked.errors == [None]
    if wire[dialect] is None:
        assert (asked.bodies, asked.left_out) == (bare.bodies, [()])
    elif wire[dialect][0] == OUT:
        assert (asked.bodies, asked.left_out) == (bare.bodies, [(wire[dialect][1],)])
    else:
        name, value = wire[dialect]
        assert (asked.bodies[0][name], asked.left_out) == (value, [()])


LEVELS: Final = [
    ("xhigh", ("low", "high"), "high", ("effort",)),
    ("none", ("low", "high"), "low", ("effort",)),
    ("medium", ("low", "high"), "low", ("effort",)),  # of equals the lower
    ("high", ("low", "high"), "high", ()),
    ("high", (), None, ("effort",)),
]


@pytest.mark.parametrize(("asked", "known", "sent", "left_out"), LEVELS)
def test_a_level_that_a_model_lacks_becomes_the_nearest(
    asked: str, known: tuple[str, ...], sent: str | None, left_out: tuple[str, ...]
) -> None:
    found = ask(
        "chat_completions",
        answer("chat_completions"),
        ModelRequest("m", HI, effort=asked),
        accepts=Accepts(efforts=known),
    )
    assert (found.bodies[0].get("reasoning_effort"), found.left_out) == (sent, [left_out])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_rows_own_fields_go_along_and_override_nothing_of_the_conversation(dialect: str) -> None:
    extra = {
        "service_tier": "flex",
        "model": "x",
        "messages": [],
        "input": [],
        "contents": [],
        "tools": [1],
        "stream": False,
    }
    extra |= {"generationConfig": {"topK": 3}, "text": {"verbosity": "low"}}
    asked = ask(dialect, answer(dialect), ModelRequest("m", HI, max_tokens=9), accepts=Accepts(extra=extra))
    plain = ask(dialect, answer(dialect), ModelRequest("m", HI, max_tokens=9), accepts=Accepts())
    body = asked.bodies[0]
    assert body["service_tier"] == "flex"
    for name in ("model", "messages", "input", "contents", "tools", "stream"):
        assert body.get(name) == plain.bodies[0].get(name)
    if dialect == "gemini":
        assert body["generationConfig"] == {"maxOutputTokens": 9, "topK": 3}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_bound_above_the_models_own_is_lowered(dialect: str) -> None:
    body = ask(dialect, answer(dialect), ModelRequest("m", HI, max_tokens=5000), accepts=THINKS).bodies[0]
    limits = {**body, **body.get("generationConfig", {})}
    assert 1000 in limits.values()
    assert 5000 not in limits.values()


def test_anthropic_has_room_to_think_where_nobody_set_a_bound() -> None:
    asked = ask("anthropic", answer("anthropic"), ModelRequest("m", HI), accepts=Accepts(thinks=True))
    assert asked.bodies[0]["max_tokens"] == 65_536
    assert asked.bodies[0]["thinking"] == {"type": "adaptive", "display": "summarized"}


def test_a_preview_of_gemini_is_asked_where_it_is() -> None:
    async def run() -> str:
        async with Upstream(answer("gemini")) as upstream, aiohttp.ClientSession() as session:
            provider = ours("gemini", upstream.root, session, Accepts(api_version="v1beta"))
            async for _ in provider.stream(ModelRequest("m", HI)):
                pass
            return upstream.requests[0][0]

    assert asyncio.run(run()).startswith("POST /v1beta/models/m:")


# -- what is given up --------------------------------------------------------------------------------------------------

REFUSALS: Final[list[tuple[str, dict[str, Any], str]]] = [
    # dialect, what its server refuses, the top-level field that is gone or changed
    (
        "responses",
        {"code": "unsupported_value", "param": "reasoning.summary", "message": "must be verified"},
        "reasoning",
    ),
    ("responses", {"message": "Unknown parameter: 'prompt_cache_key'."}, "prompt_cache_key"),
    ("anthropic", {"type": "invalid_request_error", "message": "adaptive thinking is not supported"}, "thinking"),
    (
        "anthropic",
        {"type": "invalid_request_error", "message": "cache_control: Extra inputs are not permitted"},
        "cache_control",
    ),
    ("anthropic", {"message": "tools.0.custom.eager_input_streaming: Extra inputs are not permitted"}, "tools"),
    ("gemini", {"status": "INVALID_ARGUMENT", "message": "Thinking is not enabled for this model"}, "generationConfig"),
    ("chat_completions", {"message": "Unrecognized request argument supplied: stream_options"}, "stream_options"),
]


@pytest.mark.parametrize(("dialect", "error", "field"), REFUSALS, ids=[f"{row[0]}-{row[2]}" for row in REFUSALS])
def test_what_the_caller_did_not_ask_for_is_given_up_once_and_remembered(
    dialect: str, error: dict[str, Any], field: str
) -> None:
    request = ModelRequest("m", HI, tools=TOOLS, cache_key="k")
    asked = ask(dialect, in_turn(refusal(error), answer(dialect)), request, request, accepts=Accepts(thinks=True))
    assert asked.errors == [None, None]
    first, second, third = asked.bodies
    assert first[field] != second.get(field)
    assert third == second


@pytest.mark.parametrize("dialect", DIALECTS)
def test_another_refusal_is_told_at_once(dialect: str) -> None:
    asked = ask(
        dialect, refusal({"message": "messages: required"}), ModelRequest("m", HI), accepts=Accepts(thinks=True)
    )
    assert (len(asked.bodies), asked.errors[0] is not None) == (1, True)


# -- pictures, files, sounds -------------------------------------------------------------------------------------------

PNG: Final = base64.b64decode("iVBORw0KGgo=")
URL: Final = "https://example.com/a.png"
PART: Final[dict[str, tuple[Any, dict[str, Any]]]] = {
    "a picture": (Image(data=PNG, media_type="image/png"), {
        "chat_completions": {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        "responses": {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=", "detail": "auto"},
        "anthropic": {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
        "gemini": {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}},
    }),
    "a picture by its address": (Image(url=URL), {
        "chat_completions": {"type": "image_url", "image_url": {"url": URL}},
        "responses": {"type": "input_image", "image_url": URL, "detail": "auto"},
        "anthropic": {"type": "image", "source": {"type": "url", "url": URL}},
        "gemini": {"fileData": {"fileUri": URL, "mimeType": "image/png"}},
    }),
    "a PDF": (File("a.pdf", data=b"%PDF", media_type="application/pdf"), {
        "chat_completions": {
            "type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}},
        "responses": {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="},
        "anthropic": {
            "type": "document", "title": "a.pdf",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="}},
        "gemini": {"inlineData": {"mimeType": "application/pdf", "data": "JVBERg=="}},
    }),
    "a PDF by its address": (File("a.pdf", url="https://example.com/a.pdf"), {
        "chat_completions": None,
        "responses": {"type": "input_file", "file_url": "https://example.com/a.pdf"},
        "anthropic": {
            "type": "document", "title": "a.pdf", "source": {"type": "url", "url": "https://example.com/a.pdf"}},
        "gemini": {"fileData": {"fileUri": "https://example.com/a.pdf", "mimeType": "application/pdf"}},
    }),
    "a text": (File("a.txt", data=b"hello", media_type="text/plain"), {
        "chat_completions": {
            "type": "file", "file": {"filename": "a.txt", "file_data": "data:text/plain;base64,aGVsbG8="}},
        "responses": {"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain;base64,aGVsbG8="},
        "anthropic": {
            "type": "document", "title": "a.txt",
            "source": {"type": "text", "media_type": "text/plain", "data": "hello"}},
        "gemini": {"inlineData": {"mimeType": "text/plain", "data": "aGVsbG8="}},
    }),
    "a sound": (Audio(b"RIFF", "wav"), {
        "chat_completions": {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        "responses": None,
        "anthropic": None,
        "gemini": {"inlineData": {"mimeType": "audio/wav", "data": "UklGRg=="}},
    }),
}  # fmt: skip


def contents(body: dict[str, Any]) -> list[Any]:
    turns = body.get("messages") or body.get("input") or body["contents"]
    found = turns[-1].get("content") or turns[-1]["parts"]
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", PART)
def test_a_part_reaches_each_wire_in_its_own_form_or_is_refused_by_its_field(dialect: str, name: str) -> None:
    part, wire = PART[name]
    request = ModelRequest("m", [*HI, Message("assistant", "yes?"), Message("user", (Text("Look:"), part))])
    asked = ask(dialect, answer(dialect), request, accepts=Accepts())
    if wire[dialect] is None:
        error = asked.errors[0]
        assert error is not None
        assert (error.code, error.field, error.blame) == ("VALIDATION_ERROR", "messages[2].content[1]", "model")
        assert asked.bodies == []
    else:
        assert asked.errors == [None]
        assert contents(asked.bodies[0])[-1] == wire[dialect]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_row_that_takes_no_pictures_refuses_one(dialect: str) -> None:
    request = ModelRequest("m", [Message("user", (Image(url=URL),))])
    error = ask(dialect, answer(dialect), request, accepts=Accepts(images=False)).errors[0]
    assert error is not None
    assert error.field == "messages[0].content[0]"


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("images", [True, False])
def test_a_tools_picture_goes_back_where_the_model_takes_it(dialect: str, images: bool) -> None:
    use = ToolUse("c0", "f", {})
    result = Message("tool", (Text("here"), Image(data=PNG, media_type="image/png")), tool_call_id="c0")
    request = ModelRequest("m", [*HI, Message("assistant", "", (use,)), result], tools=TOOLS)
    asked = ask(dialect, answer(dialect), request, accepts=Accepts(images=images))
    assert asked.errors == [None]
    sent = msgspec.json.encode(asked.bodies[0]).decode()
    assert ("iVBORw0KGgo=" in sent, "a picture that this model cannot be shown" in sent) == (images, not images)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_function_without_properties_gets_some(dialect: str) -> None:
    tools = [ToolSpec("f", "", {}), ToolSpec("g", "", {"type": "object"})]
    body = ask(dialect, answer(dialect), ModelRequest("m", HI, tools=tools), accepts=Accepts()).bodies[0]
    assert msgspec.json.encode(body["tools"]).count(b'"properties":{}') == 2


@pytest.mark.parametrize("model", ["local", "scripted"])
def test_what_is_asked_of_our_own_models_is_named_too(model: str) -> None:
    provider = Scripted() if model == "scripted" else Local()
    request = ModelRequest("m", HI, effort="high", response_format=FORMAT, tools=TOOLS, tool_choice=ONE)
    named = {"scripted": ("response_format", "tool_choice", "effort"), "local": ("effort",)}
    assert provider.left_out(request) == named[model]
    assert provider.left_out(ModelRequest("m", HI, temperature=0.5, tool_choice="none")) == ()


LOOK: Final = ModelRequest("m", [Message("user", (Text("Look:"), Image(url=URL, detail="low")))])
STRICT: Final = ModelRequest("m", HI, tools=[ToolSpec("f", "", {}, strict=True)])
BESIDE: Final[list[tuple[str, ModelRequest, str, tuple[str, ...]]]] = [
    # dialect, what is asked, what is in the body, what is named
    ("chat_completions", LOOK, '"detail":"low"', ()),
    ("responses", LOOK, '"detail":"low"', ()),
    ("anthropic", LOOK, "", ("image_url.detail",)),
    ("gemini", LOOK, "", ("image_url.detail",)),
    ("chat_completions", STRICT, '"strict":true', ()),
    ("responses", STRICT, '"strict":true', ()),
    ("anthropic", STRICT, '"strict":true', ()),
    ("gemini", STRICT, "", ("strict",)),
    ("anthropic", ModelRequest("m", HI, temperature=1.5), '"temperature":1.0', ("temperature",)),
    ("gemini", ModelRequest("m", HI, temperature=1.5), '"temperature":1.5', ()),
    ("responses", ModelRequest("m", HI, max_tokens=5000), "1000", ("max_tokens",)),
    ("responses", ModelRequest("m", HI, parallel_tool_calls=False), "", ("parallel_tool_calls",)),
    ("anthropic", ModelRequest("m", HI, response_format={"type": "text"}), "", ()),
]


@pytest.mark.parametrize(("dialect", "request_", "sent", "named"), BESIDE)
def test_what_is_asked_beside_is_sent_or_named(
    dialect: str, request_: ModelRequest, sent: str, named: tuple[str, ...]
) -> None:
    asked = ask(dialect, answer(dialect), request_, accepts=Accepts(max_output=1000))
    assert (asked.errors, asked.left_out) == ([None], [named])
    assert sent in msgspec.json.encode(asked.bodies[0]).decode()


def test_a_part_that_is_not_taken_tells_nothing_of_the_models_health() -> None:
    request = ModelRequest("m", [Message("user", (File("a.pdf", url="https://example.com/a.pdf"),))])
    error = ask("chat_completions", answer("chat_completions"), request, accepts=Accepts()).errors[0]
    assert error is not None
    assert (error.is_ill, error.blame) == (False, "model")


def test_text_as_the_format_is_neither_sent_to_a_model_that_takes_none_nor_named() -> None:
    request = ModelRequest("m", HI, response_format={"type": "text"})
    asked = ask("chat_completions", answer("chat_completions"), request, accepts=Accepts(response_format=False))
    assert asked.left_out == [()]
    assert "response_format" not in asked.bodies[0]
