"""What a client may ask; what is wrong is named by its field."""

from __future__ import annotations

import json
import math
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.cases import pure
from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.wire import request
from tokenrelay.protocol.wire.request import ChatRequest, Function, Message, ToolEntry

ASK = {"message": "hi"}
TURN = {"role": "user", "content": "hi"}


def calls(arguments: str) -> dict[str, Any]:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


CALLS = calls('{"city":"Oslo"}')
CALL = CALLS["tool_calls"][0]
GAVE = {"role": "tool", "tool_call_id": "c1", "content": "rain"}

PDF = "data:application/pdf;base64,JVBERg=="
TEXT = {"type": "text", "text": "what is it?"}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}}


def part(value: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [value]}]}


def picture(url: str) -> dict[str, Any]:
    return part({"type": "image_url", "image_url": {"url": url}})


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    # name, body, field, words of the issue
    ("nothing", {}, "message", "got none"),
    ("null is not given", {"message": None}, "message", "got none"),
    ("two questions", {"message": "a", "prompt": "b"}, "prompt", "got message and prompt"),
    ("three questions", {"message": "a", "prompt": "b", "messages": [TURN]}, "prompt", "exactly one"),
    ("a blank message", {"message": " \n"}, "message", "some text"),
    ("a blank prompt", {"prompt": ""}, "prompt", "some text"),
    ("only blank turns", {"messages": [{"role": "user", "content": " "}]}, "messages", "some text"),
    ("no turns", {"messages": []}, "messages", "length >= 1"),
    ("too many turns", {"messages": [TURN] * 1001}, "messages", "length <= 1000"),
    ("a number as message", {"message": 5}, "message", "got `int`"),
    ("a turn that is text", {"messages": ["hi"]}, "messages[0]", "got `str`"),
    ("an unknown role", {"messages": [TURN, {"role": "robot", "content": "x"}]}, "messages[1].role", "'robot'"),
    ("a turn without content", {"messages": [{"role": "user"}]}, "messages[0].content", "expected a string"),
    ("a result of nothing", {"messages": [TURN, {"role": "tool", "content": "x"}]}, "messages[1].tool_call_id", "id"),
    (
        "a result of no call",
        {"messages": [TURN, CALLS, {**GAVE, "tool_call_id": "c9"}]},
        "messages[2].tool_call_id",
        "call",
    ),
    ("a result twice", {"messages": [TURN, CALLS, GAVE, GAVE]}, "messages[3].tool_call_id", "without a result"),
    (
        "a result without content",
        {"messages": [CALLS, {"role": "tool", "tool_call_id": "c1"}]},
        "messages[1].content",
        "string",
    ),
    ("a call without a result", {"messages": [TURN, CALLS]}, "messages[1].tool_calls", "result"),
    ("a call left open", {"messages": [TURN, CALLS, TURN]}, "messages[1].tool_calls", "result"),
    ("no calls", {"messages": [TURN, {**CALLS, "tool_calls": []}]}, "messages[1].tool_calls", "length >= 1"),
    ("a user that calls", {"messages": [{**TURN, "tool_calls": [CALL]}]}, "messages[0].tool_calls", "assistant"),
    ("a user that gives", {"messages": [{**TURN, "tool_call_id": "c1"}]}, "messages[0].tool_call_id", "role tool"),
    ("one id twice", {"messages": [{**CALLS, "tool_calls": [CALL, CALL]}]}, "messages[0].tool_calls[1].id", "same id"),
    ("arguments of no JSON", {"messages": [calls("{")]}, "messages[0].tool_calls[0].function.arguments", "JSON object"),
    ("arguments in a list", {"messages": [calls("[]")]}, "messages[0].tool_calls[0].function.arguments", "JSON object"),
    (
        "arguments beyond JSON",
        {"messages": [calls('{"a":1e999}')]},
        "messages[0].tool_calls[0].function.arguments",
        "JSON",
    ),
    (
        "a call of another type",
        {"messages": [{**CALLS, "tool_calls": [{**CALL, "type": "x"}]}]},
        "messages[0].tool_calls[0].type",
        "'x'",
    ),
    ("a turn with parts", {"messages": [{"role": "user", "content": []}]}, "messages[0].content", "length >= 1"),
    ("a part of no kind", part({"type": "video"}), "messages[0].content[0].type", "'video'"),
    ("a part without a type", part({"text": "a"}), "messages[0].content[0]", "`type`"),
    ("a text that is a number", part({"type": "text", "text": 1}), "messages[0].content[0].text", "got `int`"),
    ("only blank parts", part({"type": "text", "text": " "}), "messages", "some text"),
    ("a picture of nothing", picture(""), "messages[0].content[0].image_url.url", "length >= 1"),
    ("a picture in the clear", picture("http://a.b/c.png"), "messages[0].content[0].image_url.url", "https://"),
    ("a picture on no host", picture("https:///c.png"), "messages[0].content[0].image_url.url", "https://"),
    ("a picture with a blank", picture("https://a.b/c d.png"), "messages[0].content[0].image_url.url", "https://"),
    ("a picture far away", picture("https://a.b/" + "c" * 8192), "messages[0].content[0].image_url.url", "8192"),
    ("a picture on a broken host", picture("https://[a/"), "messages[0].content[0].image_url.url", "https://"),
    (
        "a picture that is none",
        picture("data:text/plain;base64,QQ=="),
        "messages[0].content[0].image_url.url",
        "text/plain",
    ),
    (
        "a picture in percent signs",
        picture("data:image/svg+xml,%3Csvg"),
        "messages[0].content[0].image_url.url",
        ";base64",
    ),
    ("a picture of no type", picture("data:;base64,QQ=="), "messages[0].content[0].image_url.url", "TYPE/SUBTYPE"),
    (
        "a picture by number",
        part({"type": "image_url", "image_url": {"url": "https://a.b/c"}, "part": 0}),
        "messages[0].content[0].part",
        "only the server",
    ),
    (
        "a picture of a stated type",
        part({"type": "image_url", "image_url": {"url": "https://a.b/c"}, "media_type": "a/b"}),
        "messages[0].content[0].media_type",
        "only the server",
    ),
    ("a file of nothing", part({"type": "file", "file": {"filename": "a"}}), "messages[0].content[0].file", "either"),
    (
        "a file of both",
        part({"type": "file", "file": {"file_data": PDF, "file_url": "https://a.b/c"}}),
        "messages[0].content[0].file",
        "either",
    ),
    (
        "a file in plain base64",
        part({"type": "file", "file": {"file_data": "QQ=="}}),
        "messages[0].content[0].file.file_data",
        "expected data:",
    ),
    (
        "a file in the clear",
        part({"type": "file", "file": {"file_url": "ftp://a.b/c"}}),
        "messages[0].content[0].file.file_url",
        "https://",
    ),
    (
        "a sound of nothing",
        part({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}),
        "messages[0].content[0].input_audio.data",
        "length >= 1",
    ),
    (
        "a sound without data",
        part({"type": "input_audio", "input_audio": {"format": "wav"}}),
        "messages[0].content[0].input_audio.data",
        "base64",
    ),
    (
        "a sound of another format",
        part({"type": "input_audio", "input_audio": {"data": "QQ==", "format": "ogg"}}),
        "messages[0].content[0].input_audio.format",
        "'ogg'",
    ),
    (
        "a picture of the assistant's",
        {"messages": [TURN, {"role": "assistant", "content": [PICTURE]}]},
        "messages[1].content[0]",
        "user's turn",
    ),
    (
        "the 21st picture",
        {
            "messages": [
                {"role": "user", "content": [TEXT, *[PICTURE] * 15]},
                {"role": "user", "content": [PICTURE] * 6},
            ]
        },
        "messages[1].content[5]",
        "at most 20 parts",
    ),
    ("an effort nobody has", {**ASK, "reasoning_effort": "maximal"}, "reasoning_effort", "'maximal'"),
    ("an effort nobody has, within", {**ASK, "reasoning": {"effort": "maximal"}}, "reasoning.effort", "'maximal'"),
    ("two efforts", {**ASK, "reasoning": {"effort": "low"}, "reasoning_effort": "high"}, "reasoning_effort", "low"),
    ("a show of something else", {**ASK, "show": ["thinking", "cost"]}, "show[1]", "'cost'"),
    ("a show that is a word", {**ASK, "show": "thinking"}, "show", "got `str`"),
    ("a format nobody has", {**ASK, "response_format": {"type": "xml"}}, "response_format.type", "'xml'"),
    ("a format without a type", {**ASK, "response_format": {}}, "response_format", "`type`"),
    (
        "a schema without a name",
        {**ASK, "response_format": {"type": "json_schema", "json_schema": {}}},
        "response_format.json_schema",
        "name",
    ),
    (
        "a schema with a blank name",
        {**ASK, "response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}},
        "response_format.json_schema.name",
        "regex",
    ),
    (
        "a schema that is a list",
        {**ASK, "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": []}}},
        "response_format.json_schema.schema",
        "got `array`",
    ),
    ("a choice nobody has", {**ASK, "tools": ["x"], "tool_choice": "any"}, "tool_choice", "'any'"),
    ("a choice among nothing", {**ASK, "tool_choice": "required"}, "tool_choice", "tools beside it"),
    (
        "a choice of another",
        {**ASK, "tools": ["x"], "tool_choice": {"type": "function", "function": {"name": "y"}}},
        "tool_choice.function.name",
        "one of the tools",
    ),
    (
        "a choice of another type",
        {**ASK, "tools": ["x"], "tool_choice": {"type": "custom", "function": {"name": "x"}}},
        "tool_choice.type",
        "'custom'",
    ),
    ("calls at once as a word", {**ASK, "parallel_tool_calls": "no"}, "parallel_tool_calls", "got `str`"),
    ("a server's tool as one's own", {**ASK, "tools": [{"name": "x", "own": True}]}, "tools[0].own", "only a function"),
    ("too much metadata", {**ASK, "metadata": {str(number): "" for number in range(17)}}, "metadata", "length <= 16"),
    ("metadata that is a number", {**ASK, "metadata": {"a": 1}}, "metadata[...]", "got `int`"),
    ("a long name in metadata", {**ASK, "metadata": {"a" * 65: "b"}}, "metadata", "length <= 64"),
    ("a nameless one in metadata", {**ASK, "metadata": {"": "b"}}, "metadata", "length >= 1"),
    ("a long value in metadata", {**ASK, "metadata": {"a": "b" * 513}}, "metadata[...]", "length <= 512"),
    ("an empty model", {**ASK, "model": ""}, "model", "length >= 1"),
    ("a long model", {**ASK, "model": "m" * 201}, "model", "length <= 200"),
    ("a model of two lines", {**ASK, "model": "a\nb"}, "model", "printable"),
    ("a provider with NUL", {**ASK, "provider": "a\0"}, "provider", "printable"),
    ("a word as boolean", {**ASK, "stream": "yes"}, "stream", "got `str`"),
    ("no tokens", {**ASK, "max_tokens": 0}, "max_tokens", ">= 1"),
    ("too many tokens", {**ASK, "max_tokens": 1_000_001}, "max_tokens", "<= 1000000"),
    ("half a token", {**ASK, "max_tokens": 1.5}, "max_tokens", "got `float`"),
    ("too cold", {**ASK, "temperature": -0.1}, "temperature", ">= 0"),
    ("too hot", {**ASK, "temperature": 2.1}, "temperature", "<= 2"),
    ("more than everything", {**ASK, "top_p": 1.1}, "top_p", "<= 1"),
    ("an empty stop", {**ASK, "stop": ""}, "stop", "length >= 1"),
    ("an empty stop among others", {**ASK, "stop": ["a", ""]}, "stop[1]", "length >= 1"),
    ("too many stops", {**ASK, "stop": ["a"] * 17}, "stop", "length <= 16"),
    ("a number as stop", {**ASK, "stop": 5}, "stop", "got `int`"),
    ("a seed beyond 64 bits", {**ASK, "seed": 2**63}, "seed", "<="),
    ("tools that are no list", {**ASK, "tools": {}}, "tools", "got `object`"),
    ("a tool that is a number", {**ASK, "tools": ["calculator", 5]}, "tools[1]", "got `int`"),
    ("a tool that is nothing", {**ASK, "tools": [{}]}, "tools[0]", "expected an id"),
    ("a tool with a blank", {**ASK, "tools": ["a b"]}, "tools[0]", "regex"),
    ("a tool of another type", {**ASK, "tools": [{"type": "web", "name": "x"}]}, "tools[0].type", "'web'"),
    (
        "a tool of both kinds",
        {**ASK, "tools": [{"type": "function", "name": "x", "function": {"name": "x"}}]},
        "tools[0]",
        "expected an id",
    ),
    (
        "a function without a name",
        {**ASK, "tools": [{"type": "function", "function": {}}]},
        "tools[0].function",
        "name",
    ),
    ("a function without a type", {**ASK, "tools": [{"function": {"name": "x"}}]}, "tools[0].type", "function"),
    (
        "parameters that are a list",
        {**ASK, "tools": [{"type": "function", "function": {"name": "x", "parameters": {"type": "array"}}}]},
        "tools[0].function.parameters",
        "of type object",
    ),
    ("too many tools", {**ASK, "tools": ["x"] * 129}, "tools", "length <= 128"),
    ("a strategy nobody has", {**ASK, "preferences": {"strategy": "best"}}, "preferences.strategy", "'best'"),
    ("preferences that are no object", {**ASK, "preferences": []}, "preferences", "got `array`"),
    ("a value nobody knows", {**ASK, "on_disconnect": "stop"}, "on_disconnect", "grace:SECONDS"),
    ("a grace without seconds", {**ASK, "on_disconnect": "grace:"}, "on_disconnect", "grace:SECONDS"),
    ("too much grace", {**ASK, "on_disconnect": "grace:3601"}, "on_disconnect", "at most 3600"),
]


@pytest.mark.parametrize(("body", "field", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_fault_is_named_by_its_field_at_both_doors(body: dict[str, Any], field: str, words: str) -> None:
    for way in ("json", "object"):
        with pytest.raises(TokenrelayError) as caught:
            request.from_object(body) if way == "object" else request.parse_json(json.dumps(body).encode())
        assert caught.value.code == "VALIDATION_ERROR"
        assert caught.value.fields["field"] == field
        assert words in caught.value.fields["issue"]
        assert caught.value.message == f"{field}: {caught.value.fields['issue']}"


DEEP = b'{"message":"x","preferences":{"a":' + b"[" * 5000


@pytest.mark.parametrize("body", [b"", b"{", b"nul", b'{"message":"\xff"}', b'{"message":"\\ud800"}', DEEP])
def test_what_is_no_json_is_not_well_formed(body: bytes) -> None:
    with pytest.raises(TokenrelayError) as caught:
        request.parse_json(body)
    assert caught.value.code == "INVALID_REQUEST"


@pytest.mark.parametrize("body", [b"[]", b"5", b'"hi"', b"null"])
def test_a_body_that_is_no_object_is_named_body(body: bytes) -> None:
    with pytest.raises(TokenrelayError) as caught:
        request.parse_json(body)
    assert (caught.value.code, caught.value.fields["field"]) == ("VALIDATION_ERROR", "body")


@pytest.mark.parametrize("value", [2**64, "\ud800"], ids=["a large number", "half a pair"])
def test_what_cannot_be_carried_is_refused(value: Any) -> None:
    with pytest.raises(TokenrelayError) as caught:
        request.from_object({**ASK, "preferences": {"a": value}})
    assert caught.value.code == "INVALID_REQUEST"


@pytest.mark.parametrize("value", [msgpack.Timestamp(1, 2), object(), float("nan")], ids=["time", "object", "NaN"])
def test_what_json_cannot_say_is_refused_by_its_field(value: Any) -> None:
    with pytest.raises(TokenrelayError) as caught:
        request.from_object({**ASK, "preferences": {"a": value}})
    assert (caught.value.code, caught.value.fields["field"]) == ("VALIDATION_ERROR", "preferences")


def test_a_key_that_is_no_text_is_named() -> None:
    with pytest.raises(TokenrelayError) as caught:
        request.from_object({**ASK, "preferences": {b"a": 1}})
    assert caught.value.fields == {"field": "preferences", "issue": "Expected `str`, got `bytes`"}


def test_what_is_no_number_is_no_temperature() -> None:
    with pytest.raises(TokenrelayError):
        request.from_object({**ASK, "temperature": math.nan})


TAKEN: list[tuple[str, dict[str, Any], ChatRequest]] = [
    ("a message", ASK, ChatRequest(message="hi")),
    ("a prompt", {"prompt": "hi"}, ChatRequest(prompt="hi")),
    ("turns", {"messages": [TURN]}, ChatRequest(messages=[Message("user", "hi")])),
    ("null where it may be left out", {**ASK, "prompt": None, "model": None, "stop": None}, ChatRequest(message="hi")),
    ("unknown fields", {**ASK, "new_field": {"a": 1}}, ChatRequest(message="hi")),
    ("a whole number as temperature", {**ASK, "temperature": 1}, ChatRequest(message="hi", temperature=1.0)),
    ("names with spaces", {**ASK, "model": "GPT-4 Turbo"}, ChatRequest(message="hi", model="GPT-4 Turbo")),
    ("stops", {**ASK, "stop": ["a", "b"]}, ChatRequest(message="hi", stop=["a", "b"])),
    ("tools in three ways", {**ASK, "tools": ["time.now", {"name": "calculator"}, {"type": "function", "function":
     {"name": "f", "parameters": {"type": "object"}}}]}, ChatRequest(message="hi", tools=["time.now",
     ToolEntry(name="calculator"), ToolEntry(type="function", function=Function("f", None, {"type": "object"}))])),
    ("every bound", {**ASK, "max_tokens": 1_000_000, "temperature": 2, "top_p": 0, "on_disconnect": "grace:3600"},
     ChatRequest(message="hi", max_tokens=1_000_000, temperature=2.0, top_p=0.0, on_disconnect="grace:3600")),
]  # fmt: skip


@pytest.mark.parametrize(("body", "expected"), [row[1:] for row in TAKEN], ids=[row[0] for row in TAKEN])
def test_a_request_is_taken_and_reaches_the_worker_as_it_is(body: dict[str, Any], expected: ChatRequest) -> None:
    assert request.parse_json(json.dumps(body).encode()) == request.from_object(body) == expected
    assert request.unpack(request.pack(expected)) == expected


@given(st.binary(max_size=40))
@pure
def test_any_bytes_are_a_request_or_refused(body: bytes) -> None:
    with pytest.raises(TokenrelayError):
        request.parse_json(body)


def test_the_system_text_stands_before_the_turns() -> None:
    asked = ChatRequest(messages=[Message("user", "a"), Message("assistant", "b")], system="s")
    assert [(turn.role, turn.content) for turn in asked.conversation] == [
        ("system", "s"), ("user", "a"), ("assistant", "b"),
    ]  # fmt: skip
    assert ChatRequest(prompt="p").conversation == [Message("user", "p")]
    assert ChatRequest(message="m", system="").conversation == [Message("user", "m")]


@pytest.mark.parametrize(("stop", "stops"), [(None, ()), ("a", ("a",)), (["a", "b"], ("a", "b")), ([], ())])
def test_stops_are_any_number(stop: Any, stops: tuple[str, ...]) -> None:
    assert ChatRequest(message="m", stop=stop).stops == stops


@pytest.mark.parametrize(
    ("value", "grace_s"), [("continue", None), ("cancel", 0), ("grace:0", 0), ("grace:5", 5), ("grace:3600", 3600)]
)
def test_on_disconnect_is_seconds_of_grace(value: str, grace_s: float | None) -> None:
    assert request.grace_s(value) == grace_s


@pytest.mark.parametrize(
    "value", ["", "grace", "grace:-1", "grace:1.5", "grace:٣", "grace:5 ", "grace:99999", "Cancel"]
)
def test_any_other_value_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="continue, cancel or grace:SECONDS"):
        request.grace_s(value)


def test_requests_for_the_same_answer_have_the_same_fingerprint() -> None:
    asked = ChatRequest(message="hi", model="claude")
    assert asked.fingerprint() == msgspec.structs.replace(asked, stream=True).fingerprint()
    others: list[dict[str, Any]] = [{"message": "ho"}, {"model": "local"}, {"seed": 1}, {"on_disconnect": "cancel"}]
    assert len({msgspec.structs.replace(asked, **other).fingerprint() for other in [{}, *others]}) == 5
