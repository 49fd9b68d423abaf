"""The OpenAI Responses dialect: what is asked. Source: https://platform.openai.com/docs/api-reference/responses/create."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from tokenrelay.workers.conversation import (
    Audio,
    Content,
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
from tokenrelay.workers.providers.tool_schemas import choice_of, fits, format_asked, parameters_of, schema_asked

MAX_TOKENS: Final = "max_output_tokens"
SEALED: Final = "reasoning.encrypted_content"


def encode_request(request: ModelRequest, accepts: Accepts, extras: OptionalFields) -> dict[str, Any]:
    """The body of the POST: what is None or empty is left to the model, not sent."""
    body: dict[str, Any] = {
        "model": request.model,
        "input": [item for message in request.messages for item in _encode_message(message)],
        "stream": True,
        "store": False,  # the conversation is ours to keep, not the provider's
    }
    reasoning = {
        "effort": request.effort,
        # Without it a model that thinks says nothing until it has thought.
        "summary": "auto" if accepts.thinks and extras.thinking else None,
    }
    optional = {
        accepts.token_limit_field or MAX_TOKENS: request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "tools": [_encode_tool(tool) for tool in request.tools] or None,
        "tool_choice": _tool_choice(request),
        "parallel_tool_calls": request.parallel_tool_calls if request.tools else None,
        "reasoning": {name: value for name, value in reasoning.items() if value is not None} or None,
        "text": _text(request),
        "prompt_cache_key": (request.cache_key if extras.cache else "") or None,
        # Models that do not think refuse to be asked for sealed thoughts.
        "include": [SEALED] if accepts.thinks and extras.sealed else None,
    }
    return body | {name: value for name, value in optional.items() if value is not None}


def takes(part: Part) -> bool:
    """There are no sounds in this dialect."""
    return not isinstance(part, Audio)


def _tool_choice(request: ModelRequest) -> Any:
    choice = choice_of(request)
    return {"type": "function", "name": choice[1]} if isinstance(choice, tuple) else choice


def _text(request: ModelRequest) -> dict[str, Any] | None:
    asked = format_asked(request)
    if asked is None:
        return None
    return {"format": {"type": asked, **(schema_asked(request) or {})}}


def _encode_message(message: Message) -> Iterator[dict[str, Any]]:
    """One turn is one item, and one more for each call; or all the items that the model made of it."""
    if message.role == "tool":
        output = _encode_content(message.content)
        yield {"type": "function_call_output", "call_id": message.tool_call_id or "", "output": output}
        return
    if message.echo is not None and (items := _echoed(message, message.echo.value)) is not None:
        yield from items
        return
    if message.content or not message.tool_calls:
        yield {"role": message.role, "content": _encode_content(message.content)}
    for use in message.tool_calls:
        yield _encode_call(use)


def _echoed(message: Message, items: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """The items as they came; a call is as the message has it. None when the message is no longer that turn."""
    calls = [item["call_id"] for item in items if item["type"] == "function_call"]
    text = "".join(item["content"] for item in items if item["type"] == "message")
    if not fits(message, calls, text):
        return None
    uses = {use.call_id: use for use in message.tool_calls}
    return [_encode_call(uses[item["call_id"]]) if item["type"] == "function_call" else item for item in items]


def _encode_content(content: Content) -> str | list[dict[str, Any]]:
    return text_of(content) if is_plain(content) else [_encode_part(part) for part in parts_of(content)]


def _encode_part(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "input_text", "text": part.text}
    if isinstance(part, Image):
        return {"type": "input_image", "image_url": data_url(part), "detail": part.detail or "auto"}
    if isinstance(part, Audio):
        raise TypeError("there are no sounds in this dialect")  # `takes` says so
    if part.url:  # a name beside an address is refused
        return {"type": "input_file", "file_url": part.url}
    data = f"data:{media_type(part)};base64,{base64_of(part)}"
    return {"type": "input_file", "filename": part.filename, "file_data": data}


def _encode_call(use: ToolUse) -> dict[str, Any]:
    arguments = json.dumps(use.arguments, ensure_ascii=False)
    return {"type": "function_call", "call_id": use.call_id, "name": use.name, "arguments": arguments}


def _encode_tool(tool: ToolSpec) -> dict[str, Any]:
    # Strict is the default here, and takes only schemas that leave nothing open: only who asks for it gets it.
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": parameters_of(tool),
        "strict": bool(tool.strict),
    }
