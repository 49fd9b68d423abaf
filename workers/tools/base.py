"""What a tool is: told to a model as a spec, called with arguments, answers with text. Knows no model and no stream."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from tokenrelay.workers.conversation import Content, Part, Text, ToolSpec


class ToolFailed(Exception):
    """The call gives no result. The message is for the model (and the client): it tells no internals."""


class Result(msgspec.Struct, frozen=True):
    """Text that names everything, and beside it the pictures and sounds for a model that takes them."""

    text: str
    parts: tuple[Part, ...] = ()
    structured: Any = None
    promised: Mapping[str, Any] | None = None
    """The schema that the tool has promised for `structured`."""


class Tool(msgspec.Struct, frozen=True):
    """`call` gets arguments that fit `spec.parameters`. Raises ToolFailed; whatever else it raises is our fault."""

    spec: ToolSpec
    call: Callable[[Mapping[str, Any]], Awaitable[str | Result]]


class Outcome(msgspec.Struct, frozen=True):
    """What a call gave: text of at most `MAX_TOOL_RESULT_BYTES`, and parts for a model that takes them."""

    text: str
    failed: bool = False
    parts: tuple[Part, ...] = ()

    @property
    def content(self) -> Content:
        """As a model is told it."""
        return (Text(self.text), *self.parts) if self.parts else self.text
