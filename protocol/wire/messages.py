"""The turns of a conversation as a client sends them, checked one by one and against one another. Knows no request."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

from tokenrelay.protocol.errors import invalid
from tokenrelay.protocol.wire import parts
from tokenrelay.protocol.wire.parts import Bounds, Content

MAX_CALLS: Final = 128
SPARE_LEVELS: Final = 64

CallId: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
ToolName: TypeAlias = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_.:-]{1,128}$")]


class CalledFunction(msgspec.Struct, frozen=True):
    """Which function a model called, with what: `arguments` is the text of a JSON object, as OpenAI's API has it."""

    name: ToolName
    arguments: str = "{}"

    @property
    def parsed(self) -> dict[str, Any]:
        """Raises msgspec.DecodeError when it is no JSON object."""
        return msgspec.json.decode(self.arguments or "{}", type=dict[str, Any])


class Call(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call of one of the caller's own functions, on the assistant's turn that made it."""

    id: CallId
    function: CalledFunction
    type: Literal["function"] = "function"


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of the conversation. `content` is text, or a list of parts; other parts than text only on a user's turn.

    The assistant's may have `tool_calls`, and then needs no `content`; for each one follows a turn `tool` with its
    `tool_call_id`, whose `content` is what the function gave."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    tool_calls: Annotated[list[Call], msgspec.Meta(min_length=1, max_length=MAX_CALLS)] | None = None
    tool_call_id: CallId | None = None

    @property
    def text(self) -> str:
        """What it says, without pictures, files and sounds."""
        return parts.text_of(self.content)


def check_parts(turns: list[Message], bounds: Bounds) -> None:
    total = parts.Total(bounds)
    for number, turn in enumerate(turns):
        if isinstance(turn.content, list):
            field = f"messages[{number}].content"
            total.count(field, turn.content)
            for index, part in enumerate(turn.content):
                if turn.role != "user" and not isinstance(part, parts.TextPart):
                    raise invalid(f"{field}[{index}]", "only a user's turn holds other parts than text")


def check_turns(turns: list[Message]) -> None:
    """Calls and results belong together: every provider refuses a conversation in which one is without the other."""
    open_calls: dict[str, int] = {}  # calls without a result yet: id → the turn that made them
    for number, turn in enumerate(turns):
        at = f"messages[{number}]"
        if turn.role == "tool":
            if turn.tool_call_id is None:
                raise invalid(f"{at}.tool_call_id", "expected the id of the call this is the result of")
            if open_calls.pop(turn.tool_call_id, None) is None:
                raise invalid(
                    f"{at}.tool_call_id", "expected the id of a call of the turn before, without a result yet"
                )
        elif open_calls:
            raise invalid(f"messages[{min(open_calls.values())}].tool_calls", "each call needs a turn with its result")
        elif turn.tool_call_id is not None:
            raise invalid(f"{at}.tool_call_id", "only a turn of role tool has it")
        if turn.tool_calls is not None:
            _check_calls(at, turn, open_calls, number)
        elif turn.content is None:
            raise invalid(f"{at}.content", "expected a string")
    if open_calls:
        raise invalid(f"messages[{min(open_calls.values())}].tool_calls", "each call needs a turn with its result")


def _check_calls(at: str, turn: Message, open_calls: dict[str, int], number: int) -> None:
    if turn.role != "assistant":
        raise invalid(f"{at}.tool_calls", "only an assistant's turn has them")
    for index, call in enumerate(turn.tool_calls or ()):
        field = f"{at}.tool_calls[{index}]"
        if call.id in open_calls:
            raise invalid(f"{field}.id", "another call of this turn has the same id")
        try:
            parsed = call.function.parsed
        except (msgspec.DecodeError, RecursionError) as error:
            raise invalid(f"{field}.function.arguments", "expected the text of a JSON object") from error
        check_free(f"{field}.function.arguments", parsed)
        open_calls[call.id] = number


def check_free(field: str, value: dict[str, Any]) -> None:
    """What no type describes has to be JSON too: msgpack knows NaN and bytes, and `1e999` is read as infinity.

    It is looked at deeper in brackets than it will be anywhere after: what a worker cannot read must not be queued.
    """
    held: Any = value
    for _ in range(SPARE_LEVELS):
        held = [held]
    try:
        json.dumps(held, allow_nan=False)
    except RecursionError as error:
        raise invalid(field, "nested too deep") from error
    except (TypeError, ValueError) as error:
        raise invalid(field, f"expected only what JSON can say: {shortly(error)}") from error


def shortly(error: Exception) -> str:
    return str(error)[:120] if not isinstance(error, RecursionError) else "nested too deep"
