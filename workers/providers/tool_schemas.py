"""Tools, the choice among them and the form of an answer, as every dialect needs them before its own words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenrelay.workers.conversation import Message, ModelRequest, ToolSpec, text_of


def parameters_of(tool: ToolSpec) -> dict[str, Any]:
    """The schema of its arguments. OpenAI refuses the whole request for one object without `properties`."""
    return {"type": "object", "properties": {}, **tool.parameters}


def choice_of(request: ModelRequest) -> str | tuple[str, str] | None:
    """`auto`, `none`, `required`, or ("function", its name); None where nothing is asked or there is no tool."""
    choice = request.tool_choice
    if choice is None or not request.tools:
        return None
    if isinstance(choice, str):
        return choice
    function = choice.get("function")
    name = function.get("name") if isinstance(function, Mapping) else choice.get("name")
    return ("function", str(name)) if name else "auto"


def schema_asked(request: ModelRequest) -> Mapping[str, Any] | None:
    """The `json_schema` object of the response format, with `name`, `schema`…; None for another format or none."""
    asked = request.response_format
    if asked is None or asked.get("type") != "json_schema":
        return None
    schema = asked.get("json_schema")
    return schema if isinstance(schema, Mapping) else None


def format_asked(request: ModelRequest) -> str | None:
    """`text`, `json_object` or `json_schema`; None where nothing is asked."""
    return None if request.response_format is None else str(request.response_format.get("type"))


def fits(message: Message, calls: list[str], text: str) -> bool:
    """Whether an echo with these calls and this text is still the echo of this message: its text or its calls may
    have been edited since by whoever keeps the conversation."""
    said = "".join(text_of(message.content).split())
    return calls == [use.call_id for use in message.tool_calls] and said in ("", "".join(text.split()))
