"""Tool names as every provider takes them, and back; knows no dialect.

OpenAI and Anthropic take letters, digits, `_` and `-`, 64 of them; ours may be `server.tool`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from tokenrelay.workers.conversation import Message, ModelRequest, ToolInput, ToolUse

Named = TypeVar("Named", ToolUse, ToolInput)

MAX_NAME: Final = 64
_FOREIGN: Final = re.compile(r"[^a-zA-Z0-9_-]")


class Names:
    """The names of one request: `wire` says what is sent for ours, `ours` what came back."""

    def __init__(self, request: ModelRequest) -> None:
        self.wire: dict[str, str] = {}
        self.ours: dict[str, str] = {}
        called = [use.name for message in request.messages for use in message.tool_calls]
        for name in dict.fromkeys([*(tool.name for tool in request.tools), *called]):
            self._add(name)

    def _add(self, name: str) -> None:
        wire = base = _FOREIGN.sub("_", name)[:MAX_NAME] or "_"
        number = 2
        while wire in self.ours:  # `a.b` beside `a_b`
            wire = f"{base[: MAX_NAME - 4]}_{number}"
            number += 1
        self.wire[name] = wire
        self.ours[wire] = name

    def sent(self, request: ModelRequest) -> ModelRequest:
        """The request with the names that go out."""
        if all(name == wire for name, wire in self.wire.items()):
            return request
        tools = [msgspec.structs.replace(tool, name=self.wire[tool.name]) for tool in request.tools]
        return msgspec.structs.replace(
            request,
            tools=tools,
            messages=[self._sent(turn) for turn in request.messages],
            tool_choice=self._choice(request.tool_choice),
        )

    def received(self, piece: Named) -> Named:
        """The call by the name we know. A model may also make one up: it stays as it is."""
        name = self.ours.get(piece.name, piece.name)
        return piece if name == piece.name else msgspec.structs.replace(piece, name=name)

    def _choice(self, choice: str | Mapping[str, Any] | None) -> str | Mapping[str, Any] | None:
        function = choice.get("function") if isinstance(choice, Mapping) else None
        if not isinstance(choice, Mapping) or not isinstance(function, Mapping):
            return choice
        name = str(function.get("name", ""))
        return {**choice, "function": {**function, "name": self.wire.get(name, name)}}

    def _sent(self, message: Message) -> Message:
        if not message.tool_calls:
            return message
        uses = tuple(msgspec.structs.replace(use, name=self.wire[use.name]) for use in message.tool_calls)
        return msgspec.structs.replace(message, tool_calls=uses)
