"""What the pure tests share: the vectors, a few events, and how hypothesis runs here: the same on every run."""

from __future__ import annotations

import base64
import json
from functools import cache
from pathlib import Path
from typing import Any, Final

from hypothesis import HealthCheck, Phase, settings

from tokenrelay.protocol.events import (
    Completion,
    Data,
    Event,
    Failure,
    Started,
    Thinking,
    ThinkingStarted,
    Token,
    ToolCall,
    ToolInput,
    ToolResult,
)
from tokenrelay.protocol.store import entries
from tokenrelay.protocol.store.entries import Entry

PROTOCOL: Final = Path(__file__).resolve().parents[2] / "protocol"
STREAM: Final = "5f0c6f9e2d5b4c0f8a4be1d1a9d7c3e2"
AT: Final = 1_705_314_600_123

pure = settings(
    max_examples=20,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


@cache
def vectors(name: str) -> Any:
    return json.loads((PROTOCOL / "vectors" / f"{name}.json").read_text(encoding="utf-8"))


def raw(text: str) -> bytes:
    """Bytes as the vectors write them: in base64."""
    return base64.b64decode(text)


STARTED: Final = Started(AT, "m")
THINKS: Final = ThinkingStarted(AT, "m")
THOUGHT: Final = Thinking(AT, "m", "what is 6*7? ")
INPUT: Final = ToolInput(AT, "m", "call_0", "calculator", '{"expr')
MORE_INPUT: Final = ToolInput(AT, "m", "call_0", "", 'ession"')
CALL: Final = ToolCall(AT, "m", "call_0", "calculator", {"expression": "6*7"})
RESULT: Final = ToolResult(AT, "m", "call_0", "calculator", {"expression": "6*7"}, "42")
DATA: Final = Data(AT, "m", "step", {"node": "search"})
COMPLETION: Final = Completion(AT, "m", "up", "Acme", "stop", 3, 4, 0.5)
FAILURE: Final = Failure(AT, "TIMEOUT", "it fell silent", True, 5)


def token(text: str, model: str = "m") -> Token:
    return Token(AT, model, text)


def entry(event: Event) -> Entry:
    """As an edge holds it: unpacked from the bytes of the log."""
    return entries.unpack_entry(entries.pack(event))


_NAMED: Final[dict[str, Event]] = {
    "*started": STARTED,
    "*thinks": THINKS,
    "*thought": THOUGHT,
    "*input": INPUT,
    "*more input": MORE_INPUT,
    "*call": CALL,
    "*result": RESULT,
    "*data": DATA,
    "*end": COMPLETION,
}


def log_of(items: list[str]) -> list[Entry]:
    """A log as `session.json` writes it: a starred name, or a token's text."""
    return [entry(_NAMED[item] if item.startswith("*") else token(item)) for item in items]
