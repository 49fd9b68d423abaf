"""OpenAI's Responses over our log: body to request, the object of a response. Its events are `responses_fold`'s.

Source: openai-python `types/responses/`, `lib/streaming/responses/_responses.py`; openai-node `lib/responses/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.fronts.asked import Asked, Remembered
from tokenrelay.protocol.fronts.names import Names, Turn, checked
from tokenrelay.protocol.fronts.openai import decode, unsupported
from tokenrelay.protocol.wire import event_json
from tokenrelay.protocol.wire.parts import Bounds
from tokenrelay.protocol.wire.request import DEFAULT_BOUNDS, ChatRequest

DIALECT: Final = "responses"

NOT_KEPT: Final = ("previous_response_id", "conversation", "prompt")
"""Each would need prompts kept after the end of an answer, and they leave Redis then."""

FIELD_NAMES: Final = {
    "messages": "input", "max_tokens": "max_output_tokens", "system": "instructions", "response_format": "text.format",
    "response_format.json_schema": "text.format", "tool_choice.function": "tool_choice",
}  # fmt: skip
INSIDE: Final = {
    ".tool_call_id": ".call_id", ".id": ".call_id", ".function.name": ".name", ".function.arguments": ".arguments",
    ".image_url.url": ".image_url", ".file": "", ".file.file_data": ".file_data", ".file.file_url": ".file_url",
}  # fmt: skip
"""Behind a turn, a part or a call of ours, and behind an item or its part."""

REMEMBERED: Final = ("metadata", "max_output_tokens", "temperature", "top_p", "parallel_tool_calls", "tool_choice")
"""Options that the object repeats. No text of a prompt: `instructions` is null and `tools` empty in every object."""

_SAME: Final = ("model", "temperature", "top_p", "metadata", "parallel_tool_calls", "show", "preferences", "provider",
                "enable_tools", "on_disconnect")  # fmt: skip
_PASSED_OVER: Final = frozenset({
    "user", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "include",
    "stream_options", "truncation", "background", "stream", "input", "instructions", "max_output_tokens", "tools",
    "tool_choice", "text", "reasoning", *NOT_KEPT,
})  # fmt: skip

Items = Mapping[str, dict[str, Any]]
"""Output items of earlier answers by their ids, for `item_reference`."""


def references(body: dict[str, Any]) -> list[str]:
    """Ids of earlier output items that the input names; whoever has the logs looks them up before `parse`."""
    items = body.get("input")
    if not isinstance(items, list):
        return []
    return [
        item["id"]
        for item in items
        if isinstance(item, dict) and item.get("type") == "item_reference" and isinstance(item.get("id"), str)
    ]


def parse(
    raw: bytes, *, on_disconnect: str, now_s: int, items: Items | None = None, bounds: Bounds = DEFAULT_BOUNDS
) -> Asked:
    """A body as a request. Raises TokenrelayError INVALID_REQUEST, VALIDATION_ERROR (`field` is the front's name)."""
    body = {name: value for name, value in decode(raw).items() if value is not None}
    for name in NOT_KEPT:
        if body.get(name):
            raise unsupported(name, "earlier turns are not kept here: send them as input")
    ours: dict[str, Any] = {name: body[name] for name in _SAME if name in body}
    ours["stream"] = body.get("stream", False)
    ours["messages"], turns = _messages(body.get("input"), items or {})
    names = Names(FIELD_NAMES, turns, INSIDE, has_flat_tools=True)
    if body.get("instructions"):
        ours["system"] = body["instructions"]
    if "max_output_tokens" in body:
        ours["max_tokens"] = body["max_output_tokens"]
    if body.get("tools"):
        ours["tools"] = _tools(body["tools"])
    if "tool_choice" in body:
        ours["tool_choice"] = _tool_choice(body["tool_choice"])
    reasoning = body.get("reasoning")
    if isinstance(reasoning, dict) and reasoning.get("effort"):
        ours["reasoning"] = {"effort": reasoning["effort"]}
    if isinstance(reasoning, dict) and reasoning.get("summary"):
        ours.setdefault("show", ["thinking"])
    form = body.get("text", {}).get("format") if isinstance(body.get("text"), dict) else None
    if form:
        ours["response_format"] = _response_format(form)
    if body.get("truncation", "disabled") not in ("disabled", "auto"):
        raise unsupported("truncation", "expected disabled or auto")
    if not ours.get("tools"):  # beside functions of the caller's it would switch these off too
        ours.setdefault("enable_tools", False)
    is_background = body.get("background") is True
    ours.setdefault("on_disconnect", "continue" if is_background else on_disconnect)
    options = {name: body[name] for name in REMEMBERED if name in body} | {"background": is_background}
    left_out = sorted(
        name
        for name, value in body.items()
        if name not in _SAME and name not in _PASSED_OVER and value not in (0, False)
    )
    remembered = Remembered(DIALECT, now_s, left_out=left_out, options=options, names=names.kept())
    return Asked(checked(ours, bounds, names), remembered, names)


def _messages(given: Any, items: Items) -> tuple[list[dict[str, Any]], list[Turn]]:
    """The turns, and where each stands in the input."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}], [Turn("input", "input")]
    if not isinstance(given, list) or not given:
        raise TokenrelayError("VALIDATION_ERROR", "input: expected a text or a list of items", field="input")
    turns: list[dict[str, Any]] = []
    places: list[Turn] = []
    for number, item in enumerate(given):
        _take_item(turns, places, item, f"input[{number}]", items)
    return turns, places


def _take_item(turns: list[dict[str, Any]], places: list[Turn], item: Any, field: str, items: Items) -> None:
    if not isinstance(item, dict):
        raise TokenrelayError("VALIDATION_ERROR", f"{field}: expected an object", field=field)
    kind = item.get("type", "message")
    if kind == "item_reference":
        found = items.get(str(item.get("id")))
        if found is None:
            raise TokenrelayError("NOT_FOUND", f"Item with id '{item.get('id')}' not found.", field="input")
        item, kind = found, found["type"]
    match kind:
        case "message":
            content = _content(item.get("content"), f"{field}.content")
            turns.append({"role": item.get("role", "user"), "content": content})
            places.append(_place(field, f"{field}.content", content))
        case "function_call":
            call = {
                "id": item.get("call_id"),
                "type": "function",
                "function": {"name": item.get("name"), "arguments": item.get("arguments") or "{}"},
            }
            if turns and turns[-1]["role"] == "assistant":  # calls side by side are one turn, after its text
                turns[-1].setdefault("tool_calls", []).append(call)
            else:
                turns.append({"role": "assistant", "tool_calls": [call]})
                places.append(Turn(field, field))
            places[-1].calls = [*places[-1].calls, field]
        case "function_call_output":
            output = item.get("output")
            text = output if isinstance(output, str) else _content(output, f"{field}.output")
            turns.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": text})
            places.append(_place(field, f"{field}.output", text))
        case "mcp_call" | "mcp_list_tools" | "reasoning":
            return  # our own tools' work is in the text that came of it
        case _:
            raise unsupported(
                f"{field}.type", "expected message, function_call, function_call_output or item_reference"
            )


def _place(field: str, content_field: str, content: Any) -> Turn:
    parts = [f"{content_field}[{index}]" for index in range(len(content))] if isinstance(content, list) else ()
    return Turn(field, content_field, parts)


def _content(content: Any, field: str) -> Any:
    if not isinstance(content, list):
        return content
    parts = [_part(part, f"{field}[{index}]") for index, part in enumerate(content)]
    if all(part["type"] == "text" and isinstance(part["text"], str) for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _part(part: Any, field: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    match kind:
        case "input_text" | "output_text" | "text":
            return {"type": "text", "text": part.get("text")}
        case "refusal":
            return {"type": "text", "text": part.get("refusal")}
        case "input_image" if part.get("image_url"):
            detail = {"detail": part["detail"]} if part.get("detail") else {}
            return {"type": "image_url", "image_url": {"url": part["image_url"], **detail}}
        case "input_file" if not part.get("file_id"):
            told = {name: part[name] for name in ("filename", "file_data", "file_url") if part.get(name)}
            return {"type": "file", "file": told}
        case "input_audio":
            return {"type": "input_audio", "input_audio": part.get("input_audio")}
        case _:
            raise unsupported(field, "expected input_text, input_image, input_file or input_audio")


def _tools(tools: Any) -> list[dict[str, Any]]:
    """Declared functions are the caller's own."""
    if not isinstance(tools, list):
        raise TokenrelayError("VALIDATION_ERROR", "tools: expected a list", field="tools")
    made: list[dict[str, Any]] = []
    for number, tool in enumerate(tools):
        if not isinstance(tool, dict) or tool.get("type") != "function":
            raise unsupported(f"tools[{number}].type", "expected function")
        told = ("name", "description", "parameters", "strict")
        function = {name: tool[name] for name in told if tool.get(name) is not None}
        made.append({"type": "function", "function": function, "own": True})
    return made


def _tool_choice(choice: Any) -> Any:
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice


def _response_format(form: Any) -> Any:
    if isinstance(form, dict) and form.get("type") == "json_schema":
        return {"type": "json_schema", "json_schema": {name: form[name] for name in form if name != "type"}}
    return form


def response_object(
    stream_id: str, remembered: Remembered, model: str, status: str, output: list[dict[str, Any]], **known: Any
) -> dict[str, Any]:
    """The object of a response; `known` are `error`, `incomplete_details` and `usage` once there are any."""
    options = remembered.options
    made: dict[str, Any] = {
        "id": f"resp_{stream_id}",
        "object": "response",
        "created_at": remembered.created_s,
        "status": status,
        "background": bool(options.get("background")),
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": options.get("max_output_tokens"),
        "metadata": options.get("metadata") or {},
        "model": model,
        "output": output,
        "parallel_tool_calls": options.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "store": True,
        "temperature": options.get("temperature"),
        "text": {"format": {"type": "text"}},
        "tool_choice": options.get("tool_choice", "auto"),
        "tools": [],
        "top_p": options.get("top_p"),
        "truncation": "disabled",
        "usage": None,
        **known,
    }
    if remembered.left_out:
        made["left_out"] = remembered.left_out
    return made


def sse(kind: str, number: int, fields: dict[str, Any]) -> bytes:
    """One event: its type as the SSE event's name too."""
    data = event_json.to_json({"type": kind, "sequence_number": number, **fields})
    return f"event: {kind}\ndata: {data}\n\n".encode()


# -- the input of an answer that runs ----------------------------------------------------------------------------------


def input_items(stream_id: str, asked: ChatRequest) -> list[dict[str, Any]]:
    """What was asked, as input items in its order. Bytes of parts are not repeated."""
    items: list[dict[str, Any]] = []
    for number, turn in enumerate(asked.conversation):
        if turn.role == "tool":
            output = {"type": "function_call_output", "call_id": turn.tool_call_id, "output": turn.text}
            items.append({"id": f"fco_{stream_id}_in{number}", "status": "completed", **output})
            continue
        if turn.text:
            kind = "output_text" if turn.role == "assistant" else "input_text"
            content: dict[str, Any] = {"type": kind, "text": turn.text}
            if turn.role == "assistant":
                content["annotations"] = []
            message = {"type": "message", "status": "completed", "role": turn.role, "content": [content]}
            items.append({"id": f"msg_{stream_id}_in{number}", **message})
        for index, call in enumerate(turn.tool_calls or ()):
            told = {"call_id": call.id, "name": call.function.name, "arguments": call.function.arguments}
            item_id = f"fc_{stream_id}_in{number}_{index}"
            items.append({"id": item_id, "type": "function_call", "status": "completed", **told})
    return items


def item_list(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A page with all of them."""
    ends = {"first_id": items[0]["id"], "last_id": items[-1]["id"]} if items else {"first_id": None, "last_id": None}
    return {"object": "list", "data": items, **ends, "has_more": False}
