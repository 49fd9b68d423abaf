"""The Gemini dialect: what is asked. Source: https://ai.google.dev/api/generate-content and .../thought-signatures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from tokenrelay.workers.conversation import (
    Audio,
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
from tokenrelay.workers.providers.parts import base64_of, media_type, parts_of
from tokenrelay.workers.providers.tool_schemas import choice_of, fits, format_asked, schema_asked

MAX_TOKENS: Final = "maxOutputTokens"

GO_ON: Final = "Continue."
"""Newest models refuse a conversation that ends on their own turn: then somebody has to ask for more."""

UNSIGNED: Final = "skip_thought_signature_validator"
"""What the reference says to sign a call with that another model made, or nobody did."""

LEVELS: Final[Mapping[str, str]] = {
    "minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH", "xhigh": "XHIGH", "max": "XHIGH",
}  # fmt: skip


def encode_request(request: ModelRequest, accepts: Accepts, extras: OptionalFields) -> dict[str, Any]:
    """The body of the POST: what is None or empty is left to the model, not sent."""
    body: dict[str, Any] = {"contents": encode_turns(request.messages)}
    system = [text_of(turn.content) for turn in request.messages if turn.role in ("system", "developer")]
    if any(system):
        body["systemInstruction"] = {"parts": [{"text": text} for text in system if text]}
    if request.tools:
        body["tools"] = [{"functionDeclarations": [_encode_tool(tool) for tool in request.tools]}]
    if (choice := choice_of(request)) is not None:
        body["toolConfig"] = {"functionCallingConfig": _calling(choice)}
    asked = schema_asked(request)
    optional = {
        accepts.token_limit_field or MAX_TOKENS: request.max_tokens,
        "temperature": request.temperature,
        "topP": request.top_p,
        "stopSequences": list(request.stop) or None,
        "seed": request.seed,
        "thinkingConfig": _thinking(request, accepts, extras) or None,
        "responseMimeType": "application/json" if format_asked(request) in ("json_object", "json_schema") else None,
        "responseJsonSchema": None if asked is None else dict(asked.get("schema") or {}),
    }
    if settings := {name: value for name, value in optional.items() if value is not None}:
        body["generationConfig"] = settings
    return body


def _calling(choice: str | tuple[str, str]) -> dict[str, Any]:
    if isinstance(choice, tuple):
        return {"mode": "ANY", "allowedFunctionNames": [choice[1]]}
    return {"mode": {"required": "ANY", "none": "NONE"}.get(choice, "AUTO")}


def _thinking(request: ModelRequest, accepts: Accepts, extras: OptionalFields) -> dict[str, Any]:
    config: dict[str, Any] = {"includeThoughts": True} if accepts.thinks and extras.thinking else {}
    if request.effort == "none":
        return {"thinkingBudget": 0}
    if request.effort is not None:
        config["thinkingLevel"] = LEVELS[request.effort]
    return config


def encode_turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Turns of one side that follow each other become one: as many results as there were calls, in one turn."""
    names = {use.call_id: use.name for message in messages for use in message.tool_calls}
    nameless = {
        part["call"]
        for message in messages
        if message.echo is not None
        for part in message.echo.value
        if "call" in part and not part.get("id")
    }
    turns: list[dict[str, Any]] = []
    for message in messages:
        if message.role in ("system", "developer"):
            continue
        role = "model" if message.role == "assistant" else "user"
        parts = list(_encode_message(message, names, nameless))
        if turns and turns[-1]["role"] == role:
            turns[-1]["parts"] += parts
        elif parts:
            turns.append({"role": role, "parts": parts})
    if turns and turns[-1]["role"] == "model":
        turns.append({"role": "user", "parts": [{"text": GO_ON}]})
    return turns


def _encode_message(message: Message, names: Mapping[str, str], nameless: set[str]) -> Iterator[dict[str, Any]]:
    """`nameless`: the calls that the provider gave no id; the one we made up is not for it."""
    if message.role == "tool":
        call_id = message.tool_call_id or ""
        answer: dict[str, Any] = {} if call_id in nameless else {"id": call_id}
        answer |= {"name": names.get(call_id, call_id), "response": {"output": text_of(message.content)}}
        shown = [
            {"inlineData": _blob(part)} for part in parts_of(message.content) if isinstance(part, Image | File | Audio)
        ]
        yield {"functionResponse": answer | ({"parts": shown} if shown else {})}
        return
    if message.echo is not None and (parts := _echoed(message, message.echo.value)) is not None:
        yield from parts
        return
    for part in parts_of(message.content):
        if not isinstance(part, Text) or part.text:
            yield _encode_part(part)
    for number, use in enumerate(message.tool_calls):
        yield _encode_call(use, {} if use.call_id in nameless else {"id": use.call_id}, "" if number else UNSIGNED)


def _echoed(message: Message, parts: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """The parts as they came, each with its own signature; a call is as the message has it. None when the message is
    no longer that turn."""
    calls = [part["call"] for part in parts if "call" in part]
    if not fits(message, calls, "".join(part.get("text", "") for part in parts if not part.get("thought"))):
        return None
    uses = {use.call_id: use for use in message.tool_calls}
    is_signed = any(part.get("thoughtSignature") for part in parts)
    encoded: list[dict[str, Any]] = []
    for part in parts:
        if "call" not in part:
            encoded.append(part)
            continue
        unsigned = "" if is_signed or part["call"] != calls[0] else UNSIGNED
        made = {"id": part["id"]} if part.get("id") else {}
        encoded.append(_encode_call(uses[part["call"]], made, part.get("thoughtSignature") or unsigned))
    return encoded


def _encode_call(use: ToolUse, made: dict[str, Any], signature: str) -> dict[str, Any]:
    part: dict[str, Any] = {"functionCall": made | {"name": use.name, "args": use.arguments}}
    return part | ({"thoughtSignature": signature} if signature else {})


def _encode_part(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"text": part.text}
    if not isinstance(part, Audio) and part.url:
        return {"fileData": {"fileUri": part.url, "mimeType": media_type(part)}}
    return {"inlineData": _blob(part)}


def _blob(part: Image | File | Audio) -> dict[str, Any]:
    return {"mimeType": media_type(part), "data": base64_of(part)}


def _encode_tool(tool: ToolSpec) -> dict[str, Any]:
    schema = {"type": "object", "properties": {}, **tool.parameters}
    return {"name": tool.name, "description": tool.description, "parametersJsonSchema": schema}
