"""The Anthropic Messages dialect: what is asked. Source: https://platform.claude.com/docs/en/api/messages/create."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from tokenrelay.workers.conversation import Audio, File, Image, Message, ModelRequest, Part, Text, ToolSpec, text_of
from tokenrelay.workers.providers.base import Accepts
from tokenrelay.workers.providers.optional_fields import OptionalFields
from tokenrelay.workers.providers.parts import base64_of, is_plain, media_type, parts_of
from tokenrelay.workers.providers.tool_schemas import choice_of, fits, parameters_of, schema_asked

MAX_TOKENS: Final = "max_tokens"

DEFAULT_MAX_TOKENS: Final = 65_536
"""The reference requires a bound. Thinking counts towards it, so it is not for the visible answer alone."""

DEFAULT_PLAIN_MAX_TOKENS: Final = 16_384
"""For models that are not known to think: older ones refuse a bound above their own."""

MAX_TEMPERATURE: Final = 1.0
"""Elsewhere it goes up to 2; more than this is refused here."""

GO_ON: Final = "Continue."
"""Newest models refuse a conversation that ends on their own turn: then somebody has to ask for more."""

TEXT_TYPES: Final = ("text/plain", "text/markdown", "text/csv", "text/html")

_FOREIGN: Final = re.compile(r"[^a-zA-Z0-9_-]")  # "String should match pattern '^[a-zA-Z0-9_-]+$'"


def encode_request(
    request: ModelRequest, accepts: Accepts, extras: OptionalFields, *, is_eager: bool = False
) -> dict[str, Any]:
    """The body of the POST: what is None or empty is left to the model, not sent. `is_eager`: tool input is to come as
    it is written."""
    system = [text_of(turn.content) for turn in request.messages if turn.role in ("system", "developer")]
    body: dict[str, Any] = {
        "model": request.model,
        accepts.token_limit_field or MAX_TOKENS: _max_tokens(request, accepts),
        "messages": encode_turns(request.messages),
        "stream": True,
    }
    optional = {
        "system": "\n\n".join(text for text in system if text) or None,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop_sequences": list(request.stop) or None,
        "tools": [_encode_tool(tool, is_eager and extras.eager) for tool in request.tools] or None,
        "tool_choice": _tool_choice(request),
        "thinking": _thinking(request, accepts, extras),
        "output_config": _output_config(request) or None,
        # The longest prefix that was seen before is read from a cache, where somebody asks for one.
        "cache_control": {"type": "ephemeral"} if extras.cache else None,
    }
    return body | {name: value for name, value in optional.items() if value is not None}


def takes(part: Part) -> bool:
    """No sounds; and of files those that have an address, PDFs and text."""
    if isinstance(part, File) and not part.url:
        return media_type(part) == "application/pdf" or media_type(part) in TEXT_TYPES
    return not isinstance(part, Audio)


def _max_tokens(request: ModelRequest, accepts: Accepts) -> int:
    if request.max_tokens is not None:
        return request.max_tokens
    most = DEFAULT_MAX_TOKENS if accepts.thinks else DEFAULT_PLAIN_MAX_TOKENS
    return most if accepts.max_output is None else min(most, accepts.max_output)


def _thinking(request: ModelRequest, accepts: Accepts, extras: OptionalFields) -> dict[str, Any] | None:
    if request.effort == "none":
        return {"type": "disabled"}
    if not (accepts.thinks and extras.thinking):
        return None
    return {"type": "adaptive", "display": "summarized"}  # by default nothing is told of it


def _output_config(request: ModelRequest) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if request.effort not in (None, "none"):
        config["effort"] = request.effort
    asked = schema_asked(request)
    if asked is not None:
        config["format"] = {"type": "json_schema", "schema": dict(asked.get("schema") or {})}
    return config


def _tool_choice(request: ModelRequest) -> dict[str, Any] | None:
    choice = choice_of(request)
    if choice is None and (request.parallel_tool_calls is not False or not request.tools):
        return None
    if isinstance(choice, tuple):
        encoded = {"type": "tool", "name": choice[1]}
    else:
        encoded = {"type": {"required": "any", "none": "none"}.get(choice or "auto", "auto")}
    if request.parallel_tool_calls is False and encoded["type"] != "none":
        return encoded | {"disable_parallel_tool_use": True}
    return encoded


def encode_turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Turns of one side that follow each other become one: all results of parallel calls must share one user turn."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        if message.role in ("system", "developer"):
            continue
        blocks = list(_encode_blocks(message))
        role = "assistant" if message.role == "assistant" else "user"
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:  # an empty turn is refused
            turns.append({"role": role, "content": blocks})
    if turns and turns[-1]["role"] == "assistant":
        turns.append({"role": "user", "content": [{"type": "text", "text": GO_ON}]})
    return turns


def _encode_blocks(message: Message) -> Iterator[dict[str, Any]]:
    if message.role == "tool":
        content: Any = text_of(message.content)
        if not is_plain(message.content):
            content = [_encode_part(part) for part in parts_of(message.content)]
        yield {"type": "tool_result", "tool_use_id": _id(message.tool_call_id or ""), "content": content}
        return
    if message.echo is not None and (blocks := _echoed(message, message.echo.value)) is not None:
        yield from blocks
        return
    for part in parts_of(message.content):
        if not isinstance(part, Text) or part.text:  # an empty text is refused
            yield _encode_part(part)
    for use in message.tool_calls:
        yield {"type": "tool_use", "id": _id(use.call_id), "name": use.name, "input": use.arguments}


def _echoed(message: Message, blocks: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """The blocks as they came: any other order of thoughts is refused. A call is as the message has it. None when the
    message is no longer that turn."""
    calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
    if not fits(message, calls, "".join(block["text"] for block in blocks if block["type"] == "text")):
        return None
    uses = {use.call_id: use for use in message.tool_calls}
    return [
        {
            "type": "tool_use",
            "id": _id(block["id"]),
            "name": uses[block["id"]].name,
            "input": uses[block["id"]].arguments,
        }
        if block["type"] == "tool_use"
        else block
        for block in blocks
    ]


def _encode_part(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, Audio):
        raise TypeError("there are no sounds in this dialect")  # `takes` says so
    if part.url:
        source: dict[str, Any] = {"type": "url", "url": part.url}
    elif isinstance(part, File) and media_type(part) in TEXT_TYPES:
        source = {"type": "text", "media_type": "text/plain", "data": part.data.decode("utf-8", "replace")}
    else:
        source = {"type": "base64", "media_type": media_type(part), "data": base64_of(part)}
    if isinstance(part, Image):
        return {"type": "image", "source": source}
    return {"type": "document", "source": source} | ({"title": part.filename} if part.filename else {})


def _id(call_id: str) -> str:
    """Another provider's ids may have what this one refuses."""
    return _FOREIGN.sub("_", call_id)


def _encode_tool(tool: ToolSpec, is_eager: bool) -> dict[str, Any]:
    encoded: dict[str, Any] = {"name": tool.name, "description": tool.description, "input_schema": parameters_of(tool)}
    encoded |= {"strict": True} if tool.strict else {}
    return encoded | ({"eager_input_streaming": True} if is_eager else {})
