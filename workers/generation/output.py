"""What one generation tells: pieces of text and events become entries of its log. Knows no model and no Redis."""

from __future__ import annotations

import asyncio
import time

import structlog

from tokenrelay.protocol.events import Event, Started
from tokenrelay.protocol.store import entries
from tokenrelay.workers.append.log import Log
from tokenrelay.workers.providers.base import ProviderError

log = structlog.get_logger()


class Output:
    """`label` is the `model` of every event, `most_bytes` how far the log may be ahead of Redis."""

    def __init__(self, to: Log, label: str, most_bytes: int) -> None:
        self.label = label
        self._log = to
        self._most_bytes = most_bytes
        self._has_moved = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Output of {self.label} to {self._log!r}>"

    def token(self, text: str) -> None:
        """A piece of the answer, as several tokens where it is long."""
        self._log.tell()
        at_ms = now_ms()
        if len(text) > entries.MAX_TOKEN_CHARACTERS:
            for start in range(0, len(text), entries.MAX_TOKEN_CHARACTERS):
                self._log.append(_packed_token(at_ms, self.label, text[start : start + entries.MAX_TOKEN_CHARACTERS]))
        elif text:
            self._log.append(_packed_token(at_ms, self.label, text))

    def event(self, event: Event) -> None:
        """Raises ProviderError for what no entry can hold."""
        raw = entries.pack(event)
        if len(raw) > entries.MAX_ENTRY_BYTES:
            raise ProviderError("the model's tool call is too large", retryable=False)
        if not isinstance(event, Started):
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


def _packed_token(at_ms: int, label: str, text: str) -> bytes:
    try:
        return entries.pack_token(at_ms, label, text)
    except UnicodeEncodeError:  # half of a surrogate pair: no UTF-8 has it, so no client could be told
        return entries.pack_token(at_ms, label, text.encode("utf-8", "replace").decode())


def now_ms() -> int:
    return time.time_ns() // 1_000_000
