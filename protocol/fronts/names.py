"""What a front calls the fields of our request, so that an error names what the caller wrote. Knows no dialect."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.wire import request
from tokenrelay.protocol.wire.parts import Bounds
from tokenrelay.protocol.wire.request import ChatRequest

_TURN: Final = re.compile(r"messages\[(\d+)\](.*)", re.DOTALL)
_PART: Final = re.compile(r"\.content\[(\d+)\](.*)", re.DOTALL)
_TOOL: Final = re.compile(r"(tools\[\d+\])\.function(.*)", re.DOTALL)
_CALL: Final = re.compile(r"\.tool_calls\[(\d+)\](.*)", re.DOTALL)


class Turn(msgspec.Struct):
    """Where in the caller's body a turn of ours stands, its content (None: the turn itself), each part of that, and
    each of its calls."""

    field: str
    content: str | None = None
    parts: Sequence[str] = ()
    calls: list[str] = []


class Names(msgspec.Struct, frozen=True):
    """`fields`: a field of ours → the caller's. `turns`: of `messages`, in order; empty where they are the caller's.
    `inside`: what stands behind a turn, a part or a call of ours → what stands behind the caller's. `has_flat_tools`:
    what describes a function stands in the caller's `tools[i]` itself."""

    fields: Mapping[str, str] = {}
    turns: Sequence[Turn] = ()
    inside: Mapping[str, str] = {}
    has_flat_tools: bool = False

    def of(self, field: str) -> str:
        """The caller's name of a field of ours."""
        if (found := _TURN.fullmatch(field)) and int(found[1]) < len(self.turns):
            return self._inside(self.turns[int(found[1])], found[2])
        if self.has_flat_tools and (found := _TOOL.fullmatch(field)):
            return found[1] + found[2]
        for ours in sorted(self.fields, key=len, reverse=True):
            if field == ours or field.startswith((f"{ours}.", f"{ours}[")):
                return self.fields[ours] + field[len(ours) :]
        return field

    def _inside(self, turn: Turn, rest: str) -> str:
        if (part := _PART.fullmatch(rest)) and int(part[1]) < len(turn.parts):
            return turn.parts[int(part[1])] + self.inside.get(part[2], part[2])
        if (call := _CALL.fullmatch(rest)) and int(call[1]) < len(turn.calls):
            return turn.calls[int(call[1])] + self.inside.get(call[2], call[2])
        if rest == ".content" and turn.content is not None:
            return turn.content
        return turn.field + self.inside.get(rest, rest)

    def renamed(self, error: TokenrelayError) -> TokenrelayError:
        """The same error, with the caller's name in its field and at the head of its sentence."""
        field = error.fields.get("field")
        if isinstance(field, str) and (theirs := self.of(field)) != field:
            error.fields["field"] = theirs
            error.message = self.told(error.message, field)
        return error

    def told(self, message: str, field: str) -> str:
        """A sentence that begins with a field of ours."""
        return self.of(field) + message[len(field) :] if message.startswith(field) else message

    def kept(self) -> dict[str, str]:
        """What a worker's word about the request may still need once its body is gone: no turn of mere text."""
        return {
            f"messages[{number}].content[{index}]": theirs
            for number, turn in enumerate(self.turns)
            for index, theirs in enumerate(turn.parts)
        }


def checked(ours: dict[str, Any], bounds: Bounds, names: Names) -> ChatRequest:
    """`ours` as a request. Raises TokenrelayError VALIDATION_ERROR, INVALID_REQUEST in the caller's words."""
    try:
        return request.from_object(ours, bounds)
    except TokenrelayError as error:
        raise names.renamed(error) from error.__cause__
