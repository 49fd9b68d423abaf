"""What one generation tells: pieces of text and events become entries of its log. Knows no model and no Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Final

import structlog

from tokenrelay.protocol.events import Event, Started, Thinking, ThinkingStarted, ToolCall, ToolInput
from tokenrelay.protocol.store import entries
from tokenrelay.workers.append.log import Log
from tokenrelay.workers.providers.base import ProviderError

_NO_OUTPUT: Final = (Started, ThinkingStarted, Thinking, ToolInput)
"""What does not bind us: another attempt may begin anew after it."""

log = structlog.get_logger()


class Output:
    """`label` is the `model` of every event, `most_bytes` how far the log may be ahead of Redis."""

    def __init__(self, to: Log, label: str, most_bytes: int) -> None:
        self.label = label
        self.shows_thinking = False
        self.shows_tool_input = False
        self._is_thinking = False  # a run of thinking has been told, and nothing since
        self._is_apart = False  # the next text begins a new item of the answer
        self._last = ""  # the last character told
        self._log = to
        self._most_bytes = most_bytes
        self._has_moved = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Output of {self.label} to {self._log!r}>"

    def token(self, text: str, begins_item: bool = False) -> None:
        """A piece of the answer, as several tokens where it is long. Two items must not run together."""
        if not text:
            return
        self._log.tell()
        self._is_thinking = False
        at_ms = now_ms()
        if begins_item or self._is_apart:
            self._is_apart = False
            if self._last and not self._last.isspace() and not text[0].isspace():
                self._log.append(_packed_token(at_ms, self.label, "\n\n"))
        self._last = text[-1]
        if len(text) > entries.MAX_TOKEN_CHARACTERS:
            for piece in _pieces(text):
                self._log.append(_packed_token(at_ms, self.label, piece))
        else:
            self._log.append(_packed_token(at_ms, self.label, text))

    def new_item(self) -> None:
        """What is told next does not go on where the text stopped."""
        self._is_apart = True

    def thinking(self, text: str) -> None:
        """The model thinks: told once for each run of it, its text only to who asked."""
        if not self._is_thinking:
            self._is_thinking = True
            self.event(ThinkingStarted(now_ms(), self.label))
        if self.shows_thinking:
            for piece in _pieces(_encodable(text)):
                self.event(Thinking(now_ms(), self.label, piece))

    def tool_input(self, call_id: str, name: str, text: str) -> None:
        """The model writes a call's arguments."""
        self._is_thinking = False
        if not self.shows_tool_input or not call_id:
            return
        if name:
            self.event(ToolInput(now_ms(), self.label, call_id, _encodable(name), ""))
        for piece in _pieces(_encodable(text)):
            self.event(ToolInput(now_ms(), self.label, call_id, "", piece))

    def event(self, event: Event) -> None:
        """Raises ProviderError for what no entry can hold."""
        raw = entries.pack(event)
        if len(raw) > entries.MAX_ENTRY_BYTES:
            raise ProviderError("the model's tool call is too large", retryable=False)
        if isinstance(event, ToolCall):
            self._is_thinking = False
        if not isinstance(event, _NO_OUTPUT):
            self._log.tell()
        self._log.append(raw)

    @property
    def is_full(self) -> bool:
        """Redis has been away for so long that the model has to wait."""
        return self._log.unacked_bytes > self._most_bytes

    def moved(self) -> None:
        """Redis has answered: there may be room, or the log is closed."""
        self._has_moved.set()

    async def room(self) -> None:
        """Returns when it is full no more. Bounded by the generation's total time."""
        log.warning("buffer_full", stream_id=self._log.stream_id, bytes=self._log.unacked_bytes)
        while self.is_full:
            await self._move()

    async def settled(self) -> None:
        """Returns when the end is in Redis, or when nothing is ours to write any more."""
        while not self._log.is_closed:
            await self._move()

    async def _move(self) -> None:
        self._has_moved.clear()
        await self._has_moved.wait()


def _pieces(text: str) -> Iterator[str]:
    """No longer than one entry may be."""
    for start in range(0, len(text), entries.MAX_TOKEN_CHARACTERS):
        yield text[start : start + entries.MAX_TOKEN_CHARACTERS]


def _encodable(text: str) -> str:
    """Half of a surrogate pair: no UTF-8 has it, so no client could be told."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _packed_token(at_ms: int, label: str, text: str) -> bytes:
    try:
        return entries.pack_token(at_ms, label, text)
    except UnicodeEncodeError:
        return entries.pack_token(at_ms, label, _encodable(text))


def now_ms() -> int:
    return time.time_ns() // 1_000_000
