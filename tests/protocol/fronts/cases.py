"""Logs that the fronts are tried with, told once."""

from __future__ import annotations

from typing import Final

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
    usage,
)
from tokenrelay.protocol.store.entries import Entry, pack, unpack_entry

STREAM: Final = "5f0c6f9e2d5b4c0f8a4be1d1a9d7c3e2"
AT: Final = 1_793_880_000_123
M: Final = "gpt"

BEGIN: Final = Started(AT, M)
HELLO: Final = (Token(AT, M, "Hel"), Token(AT, M, "lo "), Token(AT, M, "w\u00f6rld"))
OURS: Final = ToolCall(AT, M, "c1", "files.read", {"path": "a"})
OURS_DONE: Final = ToolResult(AT, M, "c1", "files.read", {"path": "a"}, "text of a")
OURS_FAILED: Final = ToolResult(AT, M, "c1", "files.read", {"path": "a"}, "no such file", failed=True)
OWN: Final = ToolCall(AT, M, "c2", "weather", {"city": "Ulm"}, own=1)
OWN_2: Final = ToolCall(AT, M, "c3", "weather", {"city": "Bonn"}, own=2)
THOUGHT: Final = (ThinkingStarted(AT, M), Thinking(AT, M, "Let "), Thinking(AT, M, "me see"))


def end(reason: str = "stop") -> Completion:
    known = usage(5, 7, cached_input_tokens=2, reasoning_tokens=3)
    return Completion(AT, M, "gpt-x", "OpenAI", reason, 5, 7, 0.5, usage=known)  # type: ignore[arg-type]


LOGS: Final[dict[str, tuple[Event, ...]]] = {
    "text": (BEGIN, *HELLO, end()),
    "nothing": (BEGIN, end()),
    "length": (BEGIN, *HELLO, end("length")),
    "filtered": (BEGIN, end("content_filter")),
    "own call": (BEGIN, HELLO[0], OWN, end("tool_calls")),
    "two own calls": (BEGIN, OWN, OWN_2, end("tool_calls")),
    "our tool between texts": (BEGIN, HELLO[0], OURS, OURS_DONE, *HELLO[1:], end()),
    "our tool failed": (BEGIN, OURS, OURS_FAILED, *HELLO, end()),
    "thinking": (BEGIN, *THOUGHT, *HELLO, end()),
    "thinking twice": (BEGIN, *THOUGHT, OURS, OURS_DONE, *THOUGHT, *HELLO, end()),
    "arguments shown": (
        BEGIN, ToolInput(AT, M, "c2", "weather", ""), ToolInput(AT, M, "c2", "", "{}"), OWN, end("tool_calls"),
    ),
    "data": (BEGIN, Data(AT, M, "step", {"n": 1}), *HELLO, end()),
    "cancelled": (BEGIN, *HELLO, end("cancelled")),
    "failed": (BEGIN, *HELLO, Failure(AT, "PROVIDER_ERROR", "the provider failed", True)),
    "failed at once": (Failure(AT, "TIMEOUT", "nobody took it", True),),
    "our tool cut off": (BEGIN, OURS, Failure(AT, "WORKER_LOST", "the worker is gone", True)),
}  # fmt: skip

WHOLE: Final = [name for name in LOGS if name not in ("cancelled", "failed", "failed at once", "our tool cut off")]


def entries_of(name: str) -> list[Entry]:
    return [unpack_entry(pack(event)) for event in LOGS[name]]


def text_of(name: str) -> str:
    return "".join(event.text for event in LOGS[name] if isinstance(event, Token))
