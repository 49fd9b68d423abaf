"""The chat-completions dialect: what is asked. Source: https://platform.openai.com/docs/api-reference/chat/create."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from tokenrelay.workers.conversation import (
    Audio,
    Content,
    File,
    Image,
    Message,
    ModelRequest,
    Part,
    Text,
    ToolSpec,
    ToolUse,
    text_of,
)
from tokenrelay.workers.providers.base import Accepts
from tokenrelay.workers.providers.optional_fields import OptionalFields
from tokenrelay.workers.providers.parts import base64_of, data_url, is_plain, media_type, parts_of
from tokenrelay.workers.providers.tool_schemas import choice_of, parameters_of

MAX_TOKENS: Final = "max_tokens"
SHOWN: Final = "What the tool returned:"
"""A tool's message holds text alone; its pictures follow in a turn of the user's, after this."""


def encode_request(request: ModelRequest, accepts: Accepts, extras: OptionalFields) -> dict[str, Any]:
    """The body of the POST: what is None or empty is left to the model, not sent."""
    body: dict[str, Any] = {
        "model": request.model,
        "messages": list(_encode_messages(request.messages)),
        "stream": True,
    }
    optional = {
        "stream_options": {"include_usage": True} if extras.usage else None,
        accepts.token_limit_field or MAX_TOKENS: request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
        "stop": list(request.stop) or None,
        "tools": [_encode_tool(tool) for tool in request.tools] or None,
        "reasoning_effort": request.effort,
        "response_format": None if request.response_format is None else dict(request.response_format),
        "tool_choice": _tool_choice(request),
        "parallel_tool_calls": request.parallel_tool_calls if request.tools else None,
    }
    return body | {name: value for name, value in optional.items() if value is not None}


def takes(part: Part) -> bool:
    """There is no address of a file in this dialect."""
    return not (isinstance(part, File) and part.url)


def _tool_choice(request: ModelRequest) -> Any:
    choice = choice_of(request)
    return {"type": "function", "function": {"name": choice[1]}} if isinstance(choice, tuple) else choice


def _encode_messages(messages: Sequence[Message]) -> Iterator[dict[str, Any]]:
    shown: list[dict[str, Any]] = []
    for message in messages:
        if shown and message.role != "tool":  # the results of parallel calls must not be parted
            yield {"role": "user", "content": [{"type": "text", "text": SHOWN}, *shown]}
            shown = []
        if message.role == "tool" and not is_plain(message.content):
            shown += [_encode_part(part) for part in parts_of(message.content) if type(part) is not Text]
        yield _encode_message(message)
    if shown:
        yield {"role": "user", "content": [{"type": "text", "text": SHOWN}, *shown]}


def _encode_message(message: Message) -> dict[str, Any]:
    encoded: dict[str, Any] = {"role": message.role, "content": _encode_content(message.content)}
    if message.role == "tool":
        encoded["content"] = text_of(message.content)
        encoded["tool_call_id"] = message.tool_call_id or ""
    if message.tool_calls:
        encoded["content"] = encoded["content"] or None  # "required unless tool_calls […] is specified"
        encoded["tool_calls"] = [_encode_call(use) for use in message.tool_calls]
    if message.echo is not None:
        encoded |= message.echo.value["fields"]
        for call in encoded.get("tool_calls", ()):
            if (extra := message.echo.value["calls"].get(call["id"])) is not None:
                call["extra_content"] = extra
    return encoded


def _encode_content(content: Content) -> str | list[dict[str, Any]]:
    return text_of(content) if is_plain(content) else [_encode_part(part) for part in parts_of(content)]


def _encode_part(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, Image):
        return {"type": "image_url", "image_url": {"url": data_url(part)} | _detail(part)}
    if isinstance(part, Audio):
        return {"type": "input_audio", "input_audio": {"data": base64_of(part), "format": part.format}}
    data = f"data:{media_type(part)};base64,{base64_of(part)}"
    return {"type": "file", "file": {"filename": part.filename, "file_data": data}}


def _detail(image: Image) -> dict[str, Any]:
    return {"detail": image.detail} if image.detail else {}


def _encode_call(use: ToolUse) -> dict[str, Any]:
    # The arguments are a string that holds JSON, as the model wrote it.
    function = {"name": use.name, "arguments": json.dumps(use.arguments, ensure_ascii=False)}
    return {"id": use.call_id, "type": "function", "function": function}


def _encode_tool(tool: ToolSpec) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "description": tool.description, "parameters": parameters_of(tool)}
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}
