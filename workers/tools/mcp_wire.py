"""What an MCP server sends, made such that the SDK takes it: one odd entry is no reason to lose the whole answer.

The SDK holds each answer as a whole against the protocol's schema and refuses all of it for one tool or one piece.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

import msgspec
import structlog
from mcp import types
from mcp.types import methods
from pydantic import TypeAdapter, ValidationError

MAX_UNKNOWN: Final = 16_384
"""How much of a piece of unknown type, as JSON, is shown to the model."""
USED: Final = ("name", "description", "inputSchema")
"""What of a tool is used here: whatever is odd in its other fields harms nobody."""
VERSION: Final = types.version.LATEST_HANDSHAKE_VERSION
"""Whose rules an entry is held against; later ones only allow more at these places."""

NO_ANSWER: Final = (types.CONNECTION_CLOSED, types.REQUEST_TIMEOUT)
"""What the SDK itself makes of a server that is silent or gone; any other error is the server's own word."""

_BLOCK: Final[TypeAdapter[types.ContentBlock]] = TypeAdapter(types.ContentBlock)

log = structlog.get_logger()


class ResultRepair:
    """One session's answers, made valid. Keeps each tool's promise about its structured result from the SDK, which
    would drop the text for a result that breaks it."""

    def __init__(self, is_pipe: bool) -> None:
        self._is_pipe = is_pipe
        self.promised: dict[str, dict[str, Any]] = {}
        self._named: set[str] = set()

    def hear(self, message: types.JSONRPCMessage) -> None:
        """Whatever comes in, made valid in place."""
        if isinstance(message, types.JSONRPCResponse):
            self._repair(message.result)
        elif isinstance(message, types.JSONRPCError) and self._is_pipe and message.error.code in NO_ANSWER:
            # Nothing but the server writes to its pipe: these are its words, not the SDK's about its silence.
            message.error.code = types.INTERNAL_ERROR

    def _repair(self, result: dict[str, Any]) -> None:
        """In place. Answers to other questions than a list of tools and a call stay as they are."""
        if isinstance(result.get("tools"), list):
            kept = [self._tool(tool) for tool in result["tools"]]
            result["tools"] = [tool for tool in kept if tool is not None]
        elif "content" in result or "structuredContent" in result:
            _repair_call(result)

    def _tool(self, tool: Any) -> dict[str, Any] | None:
        if not isinstance(tool, dict):
            self._left_out("", "no object")
            return None
        used = {field: tool[field] for field in USED if field in tool}
        if not isinstance(used.get("description"), str):
            used.pop("description", None)
        try:
            methods.validate_server_result("tools/list", VERSION, {"tools": [used]})
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            self._left_out(tool.get("name"), f"{'.'.join(map(str, first['loc'][2:]))}: {first['msg']}")
            return None
        promised = tool.get("outputSchema")
        self.promised.pop(used["name"], None)
        if isinstance(promised, dict):
            self.promised[used["name"]] = promised
        return used

    def _left_out(self, name: Any, reason: str) -> None:
        """Said once a session: the list is asked for again and again."""
        told = name[:80] if isinstance(name, str) else ""
        if told not in self._named and len(self._named) < 128:
            self._named.add(told)
            log.warning("mcp_tool_left_out", tool=told, reason=reason[:200])


def _repair_call(result: dict[str, Any]) -> None:
    content = result.get("content")
    blocks = content if isinstance(content, list) else [] if content is None else [content]
    result["content"] = [_block(block) for block in blocks]
    if "structuredContent" in result and not isinstance(result["structuredContent"], dict):
        value = result.pop("structuredContent")
        if not blocks and value is not None:
            result["content"] = [_text(value)]
    if not isinstance(result.get("isError", False), bool):
        result["isError"] = bool(result["isError"])


def _block(block: Any) -> Any:
    """As it is where its type is known; else its text, or all of it."""
    with contextlib.suppress(ValidationError):
        _BLOCK.validate_python(block, by_name=False)
        return block
    return _text(block["text"] if isinstance(block, dict) and isinstance(block.get("text"), str) else block)


def _text(value: Any) -> dict[str, Any]:
    text = value if isinstance(value, str) else msgspec.json.encode(value)[:MAX_UNKNOWN].decode("utf-8", "ignore")
    return {"type": "text", "text": text}
