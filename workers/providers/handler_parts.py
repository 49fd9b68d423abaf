"""From a handler's parts to the pieces of an answer, checked where they are yielded. Knows no thread."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from tokenrelay import agent
from tokenrelay.protocol import events
from tokenrelay.workers import conversation
from tokenrelay.workers.conversation import Counted, Delta, Finish, Piece, Progress, ToldCall, ToldResult

MAX_TOKENS: Final = 10**12
MAX_SENTENCE: Final = 4_000
"""More than any answer uses; their sums and what they cost stay numbers that every client can read."""


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
                if not isinstance(text, str | None):
                    raise TypeError(f"a thought is a str, not {type(text).__name__}")
                return conversation.Thinking(str(text or ""))
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
                cached = None if part.cached is None else _tokens(part.cached)
                used = conversation.Usage(_tokens(part.input), _tokens(part.output), cached)
                return Counted(used, _dollars(part.cost_usd))
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
    copy: dict[str, Any] = _copy(dict(value))
    return copy


def _data(name: str, value: Any) -> tuple[str, Any]:
    copy = _copy(value)
    events.Data(0, "", name, copy)
    return name, copy


def _copy(value: Any) -> Any:
    """As an entry of the log can hold it: halves of surrogate pairs become "?", as in text."""
    copy = json.loads(json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8", "replace"))
    msgspec.msgpack.encode(copy)  # raises for a number of more than 64 bits
    return copy


def sentence_of(value: Any) -> str:
    """Of a `Fail`, as an entry of the log can hold it: at most `MAX_SENTENCE` characters, no halves of pairs."""
    text = str(value)
    cut = text if len(text) <= MAX_SENTENCE else f"{text[: MAX_SENTENCE - 1]}…"
    return cut.encode("utf-8", "replace").decode()


def _tokens(count: int) -> int:
    if type(count) is not int or not 0 <= count <= MAX_TOKENS:
        raise ValueError(f"a count of tokens is an int from 0 to {MAX_TOKENS}, not {count!r:.80}")
    return count


def _dollars(cost_usd: float | None) -> float | None:
    if cost_usd is not None and not 0 <= cost_usd < float("inf"):
        raise ValueError(f"a cost is finite and not negative, not {cost_usd!r}")
    return cost_usd
