"""From a handler's parts to the pieces of an answer, checked where they are yielded. Knows no thread."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tokenrelay import agent
from tokenrelay.protocol import events
from tokenrelay.workers import conversation
from tokenrelay.workers.conversation import Counted, Delta, Finish, Piece, Progress, ToldCall, ToldResult


class Translator:
    """One answer's. `upstream` is what the completion names as the model that answered."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._calls: dict[str, ToldCall] = {}  # by id, for their results

    def piece(self, part: Any) -> Piece:
        """Raises TypeError for what is no part, ValueError for one that cannot be told."""
        match part:
            case str() | agent.Text():
                text = part if isinstance(part, str) else part.text
                if not isinstance(text, str):
                    raise TypeError(f"a text is a str, not {type(text).__name__}")
                return Delta(str(text)) if text else Progress()
            case agent.Thinking(text):
                return conversation.Thinking(str(text))
            case agent.ToolCall(call_id, name, arguments):
                call = ToldCall(str(call_id), str(name), plain(arguments))
                events.ToolCall(0, "", call.call_id, call.name, call.arguments)  # what it refuses nobody could be told
                self._calls[call.call_id] = call
                return call
            case agent.ToolResult(call_id, text, failed):
                told = self._calls.get(str(call_id))
                if told is None:
                    raise ValueError(f"a ToolResult has the id of a ToolCall before it; {call_id!r} is none")
                return ToldResult(told.call_id, told.name, told.arguments, str(text), bool(failed))
            case agent.Data(name, value):
                return conversation.Data(*_data(name, value))
            case agent.Usage():
                return Counted(conversation.Usage(part.input, part.output, part.cached), _dollars(part.cost_usd))
            case agent.Alive():
                return Progress()
            case agent.Finish(reason):
                return self.finish(reason)
        raise TypeError(f"a handler yields str and the parts of tokenrelay.agent, not {type(part).__name__}")

    def finish(self, reason: Any = "stop") -> Finish:
        if reason not in agent.FINISH_REASONS:
            raise ValueError(f"a reason to finish is one of {', '.join(agent.FINISH_REASONS)}, not {reason!r}")
        return Finish(reason, 0, 0, self._upstream)


def plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call as plain JSON, a copy: the handler may go on changing its own."""
    if not isinstance(value, Mapping):
        raise TypeError(f"the arguments of a call are a mapping, not {type(value).__name__}")
    copy: dict[str, Any] = json.loads(json.dumps(dict(value), allow_nan=False))
    return copy


def _data(name: str, value: Any) -> tuple[str, Any]:
    events.Data(0, "", name, value)
    return name, json.loads(json.dumps(value))


def _dollars(cost_usd: float | None) -> float | None:
    if cost_usd is not None and not 0 <= cost_usd < float("inf"):
        raise ValueError(f"a cost is finite and not negative, not {cost_usd!r}")
    return cost_usd
