"""The document describes what is there: every route, every error, the request and the events as the code has them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tokenrelay.protocol import errors, events
from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.store import entries
from tokenrelay.protocol.wire import event_json, request, snapshot, sse
from tokenrelay.protocol.wire.openapi import DOCUMENT
from tokenrelay.server import app

VERBS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
SCHEMAS = DOCUMENT["components"]["schemas"]
ID = "5f0c6f9e2d5b4c0f8a4be1d1a9d7c3e2"


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for verb in VERBS & item.keys():
            yield path, verb, item[verb]


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in the document."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from nodes(item)
    elif isinstance(value, list):
        for item in value:
            yield from nodes(item)


def resolve(ref: str) -> Any:
    assert ref.startswith("#/"), ref
    at: Any = DOCUMENT
    for part in ref[2:].split("/"):
        at = at[part.replace("~1", "/").replace("~0", "~")]
    return at


# -- a validator for the part of JSON Schema that the document uses --------------------------------------------------

TYPES: dict[str, Any] = {
    "string": str, "boolean": bool, "null": type(None), "object": dict, "array": list, "integer": int,
    "number": (int, float),
}  # fmt: skip
KNOWN = {
    "$ref", "type", "const", "enum", "anyOf", "oneOf", "not", "properties", "required", "items", "minItems", "maxItems",
    "minLength", "maxLength", "pattern", "minimum", "maximum", "maxProperties", "additionalProperties", "propertyNames",
    "discriminator",  # OpenAPI 3.1.1, section 4.8.25: it chooses among `anyOf`, and allows nothing by itself
    "title", "description", "default", "format", "example", "examples",
}  # fmt: skip


def is_valid(value: Any, schema: dict[str, Any]) -> bool:
    """JSON Schema 2020-12, the keywords in `KNOWN`; anything else in a schema is an error of this test."""
    assert schema.keys() <= KNOWN, schema.keys() - KNOWN
    if "$ref" in schema and not is_valid(value, resolve(schema["$ref"])):
        return False
    if "type" in schema and not _has_type(value, schema["type"]):
        return False
    if ("const" in schema and value != schema["const"]) or ("enum" in schema and value not in schema["enum"]):
        return False
    if "anyOf" in schema and not any(is_valid(value, each) for each in schema["anyOf"]):
        return False
    if "oneOf" in schema and sum(is_valid(value, each) for each in schema["oneOf"]) != 1:
        return False
    if "not" in schema and is_valid(value, schema["not"]):
        return False
    return _fits(value, schema)


def _has_type(value: Any, kind: str) -> bool:
    return isinstance(value, TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _fits(value: Any, schema: dict[str, Any]) -> bool:
    match value:
        case dict():
            fields, others = schema.get("properties", {}), schema.get("additionalProperties", {})
            if len(value) > schema.get("maxProperties", len(value)):
                return False
            if not all(is_valid(name, schema.get("propertyNames", {})) for name in value):
                return False
            if not all(is_valid(item, others) for name, item in value.items() if name not in fields):
                return False
            return all(name in value for name in schema.get("required", [])) and all(
                is_valid(item, fields[name]) for name, item in value.items() if name in fields
            )
        case list():
            size = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
            return size and all(is_valid(item, schema.get("items", {})) for item in value)
        case str():
            size = schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))
            return size and re.search(schema.get("pattern", ""), value) is not None
        case bool() | None:
            return True
        case int() | float():
            return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    raise AssertionError(f"not JSON: {value!r}")


# -- the document as a document (OpenAPI 3.1.1, sections 4.8.1 to 4.8.30) --------------------------------------------


def test_it_is_plain_json() -> None:
    assert json.loads(event_json.to_json(DOCUMENT)) == DOCUMENT


def test_its_root_has_what_the_specification_asks() -> None:
    assert re.fullmatch(r"3\.1\.\d+", DOCUMENT["openapi"])
    assert {"title", "version"} <= DOCUMENT["info"].keys()
    assert DOCUMENT.keys() <= {"openapi", "info", "servers", "tags", "security", "paths", "components"}
    assert all(path.startswith("/") for path in DOCUMENT["paths"])
    assert all(re.fullmatch(r"[a-zA-Z0-9._-]+", name) for kind in DOCUMENT["components"].values() for name in kind)


def test_every_reference_leads_somewhere() -> None:
    refs = [node["$ref"] for node in nodes(DOCUMENT) if "$ref" in node]
    assert len(refs) > 50
    for ref in refs:
        assert isinstance(resolve(ref), dict), ref


def test_every_component_is_used() -> None:
    refs = {node["$ref"] for node in nodes(DOCUMENT) if "$ref" in node}
    named = {
        f"#/components/{kind}/{name}" for kind in ("schemas", "responses") for name in DOCUMENT["components"][kind]
    }
    assert named - refs == set()


def test_every_operation_has_a_name_of_its_own_a_known_tag_and_responses() -> None:
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(names) == len(set(names))
    for path, verb, operation in operations():
        assert set(operation["tags"]) <= tags, (path, verb)
        assert operation["summary"], (path, verb)
        assert operation["responses"], (path, verb)
        for status, response in operation["responses"].items():
            assert re.fullmatch(r"[1-5][0-9]{2}", status)
            assert (resolve(response["$ref"]) if "$ref" in response else response)["description"]


def test_every_parameter_is_complete_and_the_paths_own_are_those_in_its_name() -> None:
    for path, verb, operation in operations():
        parameters = [*DOCUMENT["paths"][path].get("parameters", []), *operation.get("parameters", [])]
        for parameter in parameters:
            assert {"name", "in", "schema", "description"} <= parameter.keys()
            assert parameter["in"] in ("path", "query", "header", "cookie")
            assert parameter["in"] != "path" or parameter["required"] is True
        in_path = {parameter["name"] for parameter in parameters if parameter["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path)), (path, verb)
        assert len({(p["name"], p["in"]) for p in parameters}) == len(parameters)


def test_every_security_requirement_names_a_scheme() -> None:
    schemes = DOCUMENT["components"]["securitySchemes"]
    for requirement in [*DOCUMENT["security"], *(each for _, _, o in operations() for each in o.get("security", []))]:
        assert requirement.keys() <= schemes.keys()
    assert {scheme["type"] for scheme in schemes.values()} <= {"http", "apiKey"}


def test_every_example_is_valid_by_its_schema() -> None:
    media = [node for node in nodes(DOCUMENT) if "schema" in node and ("example" in node or "examples" in node)]
    assert len(media) > 20
    for node in media:
        values = [example["value"] for example in node.get("examples", {}).values()]
        for value in [*values, *([node["example"]] if "example" in node else [])]:
            assert is_valid(value, node["schema"]), value


# -- the document and the code ---------------------------------------------------------------------------------------


def test_it_has_every_route_and_no_other() -> None:
    described = {(path, verb.upper()) for path, verb, _ in operations() if path != "/api/ws"}
    assert described == {(path, verb) for path, handlers in app.ROUTES.items() for verb in handlers}


def test_it_has_every_error_of_the_table() -> None:
    said = {}
    for status, response in DOCUMENT["components"]["responses"].items():
        for code in response["content"]["application/json"]["examples"]:
            said[code] = int(status)
    assert said == {row.code: row.status for row in errors.ROWS}
    assert SCHEMAS["Error"]["properties"]["error_code"]["enum"] == list(errors.TABLE)


def test_the_request_has_the_fields_and_bounds_of_its_type() -> None:
    _, derived = msgspec.json.schema_components([request.ChatRequest], ref_template="#/components/schemas/{name}")
    described = SCHEMAS["ChatRequest"]["properties"]
    assert list(described) == [field.encode_name for field in msgspec.structs.fields(request.ChatRequest)]
    for name, schema in derived["ChatRequest"]["properties"].items():
        ours = {key: value for key, value in described[name].items() if key not in ("description", "pattern")}
        assert ours == schema, name


def content(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


REQUESTS: list[tuple[dict[str, Any], bool]] = [
    ({"message": "hello"}, True),
    ({"prompt": "hello"}, True),
    ({"messages": [{"role": "user", "content": "hello"}]}, True),
    ({"message": "hello", "prompt": None}, True),
    ({}, False),
    ({"message": None}, False),
    ({"message": "  "}, False),
    ({"message": "hello", "prompt": "hello"}, False),
    ({"message": "hello", "messages": [{"role": "user", "content": "hello"}]}, False),
    ({"messages": []}, False),
    ({"messages": [{"role": "user", "content": "x"}] * request.MAX_MESSAGES}, True),
    ({"messages": [{"role": "user", "content": "x"}] * (request.MAX_MESSAGES + 1)}, False),
    ({"messages": [{"role": "robot", "content": "x"}]}, False),
    ({"messages": [{"role": "user"}]}, False),
    ({"message": "hello", "stream": "yes"}, False),
    ({"message": "hello", "max_tokens": 0}, False),
    ({"message": "hello", "max_tokens": 1}, True),
    ({"message": "hello", "temperature": 2}, True),
    ({"message": "hello", "temperature": 2.1}, False),
    ({"message": "hello", "top_p": -0.1}, False),
    ({"message": "hello", "stop": "x"}, True),
    ({"message": "hello", "stop": ["x"] * 17}, False),
    ({"message": "hello", "seed": 2**63}, False),
    ({"message": "hello", "model": ""}, False),
    ({"message": "hello", "on_disconnect": "grace:30"}, True),
    ({"message": "hello", "on_disconnect": "never"}, False),
    ({"message": "hello", "something_new": 1}, True),
    (content({"type": "text", "text": "a"}), True),
    (content(), False),
    (content({"type": "text"}), False),
    (content({"type": "video"}), False),
    (content({"type": "image_url", "image_url": {"url": "https://a.b/c"}}), True),
    (content({"type": "image_url", "image_url": {}}), False),
    (
        content({"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}}),
        True,
    ),
    (content({"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}), True),
    (content({"type": "input_audio", "input_audio": {"format": "wav"}}), False),
    ({"message": "hello", "reasoning": {"effort": "high"}, "reasoning_effort": "high"}, True),
    ({"message": "hello", "reasoning_effort": "most"}, False),
    ({"message": "hello", "show": ["thinking", "tool_input"]}, True),
    ({"message": "hello", "show": ["cost"]}, False),
    ({"message": "hello", "response_format": {"type": "json_object"}}, True),
    (
        {"message": "hello", "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}},
        True,
    ),
    ({"message": "hello", "response_format": {"type": "json_schema"}}, False),
    ({"message": "hello", "response_format": {"type": "xml"}}, False),
    ({"message": "hello", "tools": ["x"], "tool_choice": {"type": "function", "function": {"name": "x"}}}, True),
    ({"message": "hello", "tools": ["x"], "tool_choice": "any"}, False),
    ({"message": "hello", "parallel_tool_calls": False}, True),
    ({"message": "hello", "metadata": {"a": "b"}}, True),
    ({"message": "hello", "metadata": {"a": 1}}, False),
    ({"message": "hello", "metadata": {"a" * 65: "b"}}, False),
    ({"message": "hello", "metadata": dict.fromkeys(map(str, range(17)), "")}, False),
]


@pytest.mark.parametrize(("body", "verdict"), REQUESTS, ids=lambda value: str(value)[:60])
def test_the_request_is_taken_or_refused_by_document_and_code_alike(body: dict[str, Any], verdict: bool) -> None:
    assert is_valid(body, SCHEMAS["ChatRequest"]) is verdict
    if verdict:
        request.parse_json(json.dumps(body).encode())
    else:
        with pytest.raises(TokenrelayError):
            request.parse_json(json.dumps(body).encode())


CALL = {"expression": "6*7"}
EVENTS: list[tuple[str, events.Event]] = [
    ("StartedEvent", events.Started(0, "m")),
    ("StartedEvent", events.Started(0, "m", {"chosen": "m"})),
    ("TokenEvent", events.Token(0, "m", "é\n")),
    ("ThinkingStartedEvent", events.ThinkingStarted(0, "m")),
    ("ThinkingEvent", events.Thinking(0, "m", "é\n")),
    ("ToolInputEvent", events.ToolInput(0, "m", "c", "calculator", "")),
    ("ToolInputEvent", events.ToolInput(0, "m", "c", "", "{")),
    ("ToolCallEvent", events.ToolCall(0, "m", "c", "calculator", CALL)),
    ("ToolCallEvent", events.ToolCall(0, "m", "c", "calculator", CALL, 1)),
    ("ToolResultEvent", events.ToolResult(0, "m", "c", "calculator", CALL, "42")),
    ("ToolResultEvent", events.ToolResult(0, "m", "c", "calculator", CALL, "no", True)),
    ("DataEvent", events.Data(0, "m", "step", {"node": 1})),
    ("DataEvent", events.Data(0, "m", "step", None)),
    ("CompletionEvent", events.Completion(0, "m", "m-1", "Acme", "stop", 1, 2, 0.5)),
    ("CompletionEvent", events.Completion(
        0, "m", "m-1", "Acme", "stop", 1, 2, 0.5, usage=events.usage(1, 2, reasoning_tokens=1), cost_usd=0.5
    )),
    ("ErrorEvent", events.Failure(0, "WORKER_LOST", "gone", True, usage=events.usage(1, 2), cost_usd=0)),
    ("ErrorEvent", events.Failure(0, "WORKER_LOST", "gone", True)),
    ("ErrorEvent", events.Failure(0, "RATE_LIMIT", "slower", True, 1.5)),
]  # fmt: skip
KINDS = [name for name in SCHEMAS if name.endswith("Event") and name != "Event"]


@pytest.mark.parametrize(("name", "event"), EVENTS, ids=lambda value: str(value)[:40])
def test_an_event_is_valid_by_its_own_schema_and_by_no_other(name: str, event: events.Event) -> None:
    data = event_json.data_of(entries.unpack_entry(entries.pack(event)), ID)
    assert [kind for kind in KINDS if is_valid(data, SCHEMAS[kind])] == [name]
    assert data.keys() <= SCHEMAS[name]["properties"].keys()
    assert is_valid(data, SCHEMAS["Event"])


def test_the_first_word_and_a_refusal_are_events_too() -> None:
    assert is_valid(event_json.accepted_data(ID, "m", 0), SCHEMAS["AcceptedEvent"])
    for code in errors.TABLE:
        refusal = TokenrelayError(code, retry_after=1)
        assert is_valid(refusal.event_data("r"), SCHEMAS["ErrorEvent"])
        assert is_valid(refusal.body("r"), SCHEMAS["Error"])


def test_answer_and_snapshot_are_as_the_code_makes_them() -> None:
    whole = snapshot.Snapshot()
    assert is_valid(whole.state(ID, "queued", "m"), SCHEMAS["Snapshot"])
    events_of_it = [event for name, event in EVENTS if name != "ErrorEvent"]
    whole.take(1, [entries.unpack_entry(entries.pack(event)) for event in events_of_it])
    optional = {"thinking", "data", "cost_usd"}
    for made, name in ((whole.answer(ID), "Answer"), (whole.state(ID, "completed", "m"), "Snapshot")):
        assert is_valid(made, SCHEMAS[name])
        assert made.keys() == set(SCHEMAS[name]["required"]) | optional
        assert optional <= SCHEMAS[name]["properties"].keys()


def test_the_example_of_a_stream_is_a_stream() -> None:
    for path, verb in (("/api/chat", "post"), ("/api/streams/{stream_id}", "get")):
        media = DOCUMENT["paths"][path][verb]["responses"]["200"]["content"]["text/event-stream"]
        frames = sse.Decoder().feed(media["example"].encode())
        told = [json.loads(frame.data) for frame in frames]
        assert all(is_valid(data, SCHEMAS["Event"]) for data in told)
        assert [data["done"] for data in told] == [False] * (len(told) - 1) + [True]
        assert "".join(data["token"] for data in told) == "w0 w1 "
