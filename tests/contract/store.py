"""The scripts, called by name, on a real Redis; what a test says in one line."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from tokenrelay.protocol.events import Started, Token
from tokenrelay.protocol.store import keys, scripts
from tokenrelay.protocol.store.entries import pack
from tokenrelay.protocol.store.scripts import (
    AppendReply,
    Claim,
    Limits,
    NewStream,
    ReapReply,
    RenewReply,
    Script,
    StartReply,
)

RETENTION_MS = 60_000
ROOMY = Limits(max_waiting=100)
LOST, LATE, CANCELLED, UNREADABLE = b"lost", b"late", b"cancelled", b"unreadable"


def token(number: int) -> bytes:
    return pack(Token(1, "m", f"w{number} "))


STARTED = pack(Started(1, "m"))


class Store:
    def __init__(self, redis: Any) -> None:
        self.redis = redis

    def run(self, script: Script, arguments: list[Any]) -> Any:
        return self.redis.execute_command("EVAL", script.text, *arguments[1:])

    def start(
        self,
        stream_id: str = "stream-1",
        *,
        key: str | None = None,
        body: str = "b",
        limits: Limits = ROOMY,
        prompt: bytes = b"prompt",
        models: tuple[str, ...] = (),
    ) -> StartReply:
        new = NewStream(stream_id, "alice", "m", prompt, "continue", key, body)
        if models:
            new = msgspec.structs.replace(new, needs=scripts.needs(models))
        arguments = scripts.start(new, limits, job=b"job", job_ttl_ms=99_000, retention_ms=RETENTION_MS)
        return scripts.start_reply(self.run(scripts.START, arguments))

    def claim(
        self, most: int = 10, lease_ms: int = 60_000, worker: str = "w1", models: tuple[str, ...] = ()
    ) -> list[Claim]:
        arguments = scripts.claim(most, lease_ms, worker, UNREADABLE, RETENTION_MS, models)
        return scripts.claim_reply(self.run(scripts.CLAIM, arguments))

    def append(
        self,
        first: int,
        *entries: bytes,
        epoch: int = 1,
        end: str = "",
        stream_id: str = "stream-1",
        tells: bool | None = None,
    ) -> AppendReply:
        """What follows entry 1 is output, unless `tells` says otherwise."""
        has_output = first + len(entries) > 2 if tells is None else tells
        arguments = scripts.append(
            stream_id, epoch, first, entries, end_state=end, retention_ms=RETENTION_MS, tells=has_output
        )
        return scripts.append_reply(self.run(scripts.APPEND if end else scripts.APPEND_MORE, arguments))

    def renew(self, *held: tuple[str, int], lease_ms: int = 60_000) -> RenewReply:
        return scripts.renew_reply(self.run(scripts.RENEW, scripts.renew(lease_ms, RETENTION_MS, held)))

    def release(self, epoch: int = 1) -> bool:
        return bool(self.run(scripts.RELEASE, scripts.release("stream-1", epoch)))

    def cancel(self, stream_id: str = "stream-1") -> str:
        state: bytes = self.run(scripts.CANCEL, scripts.cancel(stream_id, CANCELLED, RETENTION_MS))
        return state.decode()

    def reap(self, max_wait_ms: int = 60_000) -> ReapReply:
        return scripts.reap_reply(self.run(scripts.REAP, scripts.reap(100, LOST, LATE, max_wait_ms, RETENTION_MS)))

    def overdue(self, stream_id: str = "stream-1") -> None:
        """Its lease ran out a second ago."""
        self.redis.zadd(keys.LEASES, {stream_id: int(time.time() * 1000) - 1_000})

    def reap_twice(self) -> ReapReply:
        """Suspect it, then, the time of suspicion being over, judge it."""
        self.overdue()
        assert self.reap() == ReapReply(0, 0, 0)
        self.overdue()
        return self.reap()

    def log(self, stream_id: str = "stream-1") -> list[tuple[bytes, bytes]]:
        return [(entry_id, fields[b"e"]) for entry_id, fields in self.redis.xrange(keys.log(stream_id))]

    def entries(self) -> list[bytes]:
        return [entry for _, entry in self.log()]

    def meta(self, field: str) -> str | None:
        value = self.redis.hget(keys.meta("stream-1"), field)
        return None if value is None else value.decode()
