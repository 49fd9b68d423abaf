"""A turn as its provider wants it back, kept from one answer to the next: by owner and call, for the retention.

Only a turn that calls the caller's own functions needs it: what they give comes with another request. It is put back
where all of its calls are there as they were, ids, names and arguments: `call_0` comes back in every chat.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import structlog

from tokenrelay.protocol.runtime.stores.base import Store
from tokenrelay.protocol.store import keys
from tokenrelay.workers.conversation import Echo, Message, ToolUse
from tokenrelay.workers.redis import AWAY

MAX_BYTES: Final = 1024 * 1024
MAX_TURNS: Final = 32
"""So many turns of a conversation get theirs back, the newest ones."""

WAIT_S: Final = 1.0
"""An answer does not wait longer for what may be missing: without its echo a turn is plain content."""

log = structlog.get_logger()


class Kept(msgspec.Struct, frozen=True):
    """`calls` are (id, name, arguments) of the whole turn."""

    calls: list[tuple[str, str, dict[str, Any]]]
    echo: Echo


class Echoes:
    """Those of one owner."""

    def __init__(self, store: Store, owner: str, retention_ms: int) -> None:
        self._store = store
        self.owner = owner
        self._retention_ms = retention_ms

    async def keep(self, uses: Sequence[ToolUse], echo: Echo) -> None:
        """What cannot be kept is lost, and said in the log."""
        raw = msgspec.msgpack.encode(Kept(_calls(uses), echo))
        if len(raw) > MAX_BYTES:
            log.info("echo_too_large", bytes=len(raw))
            return
        try:
            async with asyncio.timeout(WAIT_S):
                await self._store.ask("SET", keys.echo(self.owner, uses[0].call_id), raw, "PX", self._retention_ms)
        except (*AWAY, TimeoutError) as error:
            log.warning("echo_not_kept", error=type(error).__name__)

    async def put_back(self, messages: list[Message]) -> list[Message]:
        """The conversation with what is known of its turns."""
        turns = [at for at, message in enumerate(messages) if message.tool_calls][-MAX_TURNS:]
        if not turns:
            return messages
        names = [keys.echo(self.owner, messages[at].tool_calls[0].call_id) for at in turns]
        raws: list[bytes | None] = []
        with contextlib.suppress(*AWAY, TimeoutError):
            async with asyncio.timeout(WAIT_S):
                raws = await self._store.ask("MGET", *names)
        known = {at: echo for at, raw in zip(turns, raws, strict=False) if (echo := _echo(raw, messages[at]))}
        return [
            msgspec.structs.replace(message, echo=known[at]) if at in known else message
            for at, message in enumerate(messages)
        ]


def _calls(uses: Sequence[ToolUse]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(use.call_id, use.name, use.arguments) for use in uses]


def _echo(raw: bytes | None, message: Message) -> Echo | None:
    if raw is None:
        return None
    try:
        kept = msgspec.msgpack.decode(raw, type=Kept)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return kept.echo if kept.calls == _calls(message.tool_calls) else None
