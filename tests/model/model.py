"""What the scripts should do, said again in Python: every step changes the model and gives the reply that Redis owes.

Times are windows (from, to) in ms of the server's clock: between its TIME before and after the script. Knows no Redis.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from tests.model.state import (
    CANCELLED,
    LATE,
    LEASE_MS,
    LOST,
    MAX_WAIT_MS,
    RETENTION_MS,
    UNREADABLE,
    Parts,
    Stream,
    Window,
)
from tokenrelay.protocol.lifecycle import MAX_ATTEMPTS
from tokenrelay.protocol.store import keys
from tokenrelay.protocol.store.scripts import (
    HOLD_MS,
    LIVE_MS,
    NOTIFY_MS,
    SUSPICION_MS,
    TOMBSTONE_MS,
    AppendReply,
    Claim,
    DueReply,
    Ended,
    Limits,
    NewStream,
    ReapReply,
    RenewReply,
    StartReply,
)


class Model:
    """One method a script; `at` is the window of the call."""

    def __init__(self) -> None:
        self.streams: dict[str, Stream] = {}  # with metadata
        self.parts: dict[str, Parts] = {}  # by stream id, those that room is counted for
        self.active: dict[str, set[str]] = {}
        self.listed: dict[str, set[str]] = {}
        self.idem: dict[tuple[str, str], tuple[str, str]] = {}
        self.chats: dict[tuple[str, str], str] = {}
        self.rate: dict[str, int] = {}  # starts of the minute
        self.leases_of_nothing: set[str] = set()  # their metadata was lost
        self.dropped = 0  # ends that found the queue of webhooks full
        self.health: dict[str, bytes] = {}
        self.health_dies: Window = (0, 0)
        self.trials: dict[str, str] = {}
        self.said: list[tuple[str, bytes]] = []  # to those that listen
        self.at: Window = (0, 0)

    def after(self, ms: int) -> Window:
        return self.at[0] + ms, self.at[1] + ms

    def in_state(self, *states: str) -> list[Stream]:
        return [stream for stream in self.streams.values() if stream.state in states]

    def waiting(self) -> list[Stream]:
        return sorted(self.in_state("queued"), key=lambda stream: (stream.since, stream.id))

    # -- what several of them do ---------------------------------------------------------------------------------------

    def _write(self, stream: Stream, first: int, entries: list[bytes]) -> None:
        stream.entries += entries
        stream.last = first + len(entries) - 1
        stream.has_log = True
        if stream.is_heard:
            self.said.append((keys.live(stream.id), b"%d\n%s" % (first, b"".join(entries))))

    def _settle(self, stream: Stream, state: str) -> None:
        stream.state, stream.ended, stream.told, stream.suspect = state, self.at, None, stream.suspect
        self._leave_active(stream)
        self.parts.pop(stream.id, None)
        stream.meta_dies = self.after(RETENTION_MS + TOMBSTONE_MS)
        stream.log_dies = self.after(RETENTION_MS)
        if stream.notify is not None and not stream.deleted:
            stream.due = self.at
            stream.log_dies = self.after(max(RETENTION_MS, NOTIFY_MS))

    def _leave_active(self, stream: Stream) -> None:
        self.active[stream.new.owner].discard(stream.id)

    def _finish(self, stream: Stream, entry: bytes, state: str) -> None:
        self._write(stream, stream.last + 1, [entry])
        stream.epoch += 1
        self._settle(stream, state)

    def _requeue(self, stream: Stream) -> None:
        stream.state, stream.suspect, stream.told, stream.since = "queued", False, None, self.at
        self.said.append((keys.WAKE, b""))

    def _drop_overdue(self) -> None:
        for stream_id in [name for name, parts in self.parts.items() if parts.until[1] <= self.at[0]]:
            del self.parts[stream_id]

    # -- before and at the start ---------------------------------------------------------------------------------------

    def hold(self, parts: Parts, most: int, most_of_owner: int) -> bool:
        stream_id = parts.held.rpartition(":")[2]
        if stream_id in self.parts:
            return True
        self._drop_overdue()
        of_owner = sum(each.size for each in self.parts.values() if each.owner == parts.owner)
        if sum(each.size for each in self.parts.values()) + parts.size > most:
            return False
        if of_owner + parts.size > most_of_owner:
            return False
        self.parts[stream_id] = replace(parts, until=self.after(HOLD_MS))
        return True

    def drop(self, stream_id: str) -> int:
        if stream_id in self.streams:
            return 0
        self.parts.pop(stream_id, None)
        return 1

    def start(self, new: NewStream, limits: Limits) -> StartReply:
        if new.stream_id in self.streams:
            return StartReply("started", new.stream_id)
        key = (new.owner, new.idempotency_key or "")
        if new.idempotency_key is not None and self.idem.get(key, ("", ""))[0] in self.streams:
            known, fingerprint = self.idem[key]
            return StartReply("existing" if fingerprint == new.fingerprint else "conflict", known)
        if new.parts and not (new.stream_id in self.parts and self.parts[new.stream_id].is_written):
            return StartReply("lost", new.stream_id)
        refused = self._no_room(new, limits)
        if refused is not None:
            return refused
        allowed = self._take_turn(new, limits)
        if allowed is None:
            return StartReply("limited", bound=limits.per_minute)
        self._make(new)
        self._enlist(new)
        return StartReply("started", new.stream_id, remaining=allowed[0], reset_ms=allowed[1])

    def _no_room(self, new: NewStream, limits: Limits) -> StartReply | None:
        waiting = self.in_state("queued")
        own = [stream for stream in waiting if stream.new.owner == new.owner]
        size, share = len(new.request), limits.share_percent / 100
        if len(waiting) >= limits.max_waiting:
            return StartReply("overloaded", bound=len(waiting))
        if limits.max_bytes and waiting and sum(each.size for each in waiting) + size > limits.max_bytes:
            return StartReply("overloaded", bound=len(waiting))
        if share < 1 and own:
            much = sum(each.size for each in own) + size
            if len(own) + 1 > int(limits.max_waiting * share):
                return StartReply("share", bound=len(own))
            if limits.max_bytes and much > limits.max_bytes * share:
                return StartReply("share", bound=len(own))
        return self._too_many(new, limits)

    def _too_many(self, new: NewStream, limits: Limits) -> StartReply | None:
        active = self.active.setdefault(new.owner, set())
        if limits.max_active and len(active) >= limits.max_active:
            active -= {each for each in active if each not in self.streams or self.streams[each].has_ended}
            if len(active) >= limits.max_active:
                return StartReply("busy", bound=limits.max_active)
        return None

    def _make(self, new: NewStream) -> None:
        stream = Stream(new.stream_id, new, created=self.at, since=self.at)
        stream.meta_dies = self.after(RETENTION_MS + TOMBSTONE_MS)
        stream.notify = 0 if new.must_notify else None
        self.streams[new.stream_id] = stream
        if new.parts:
            self.parts[new.stream_id].until = self.after(RETENTION_MS + TOMBSTONE_MS)
        self.said.append((keys.WAKE, b"%d" % new.turn))

    def _take_turn(self, new: NewStream, limits: Limits) -> tuple[int, int] | None:
        """Starts that remain of the minute, and when it is whole again; None: it has had them all."""
        if not limits.per_minute:
            return -1, 0
        had = self.rate.get(new.owner, 0)
        if had >= limits.per_minute:
            return None
        self.rate[new.owner] = had + 1
        return limits.per_minute - had - 1, (had + 1) * 60_000 // limits.per_minute

    def _enlist(self, new: NewStream) -> None:
        self.active.setdefault(new.owner, set()).add(new.stream_id)
        self.listed.setdefault(new.owner, set()).add(new.stream_id)
        if new.idempotency_key is not None:
            self.idem[new.owner, new.idempotency_key] = new.stream_id, new.fingerprint
        if new.chat_id is not None:
            self.chats[new.owner, new.chat_id] = new.stream_id

    # -- a worker's ----------------------------------------------------------------------------------------------------

    def claim(self, most: int, worker: str, models: tuple[str, ...]) -> list[Claim]:
        claims = []
        for stream in [each for each in self.waiting() if can_answer(models, each.new.needs)][:most]:
            if stream.broken:
                self._finish(stream, UNREADABLE, "failed")
                continue
            stream.epoch, stream.state, stream.told, stream.worker = stream.epoch + 1, "running", 0, worker
            stream.lease = self.after(LEASE_MS)
            new = stream.new
            claims.append(
                Claim(
                    stream.id, stream.epoch, stream.last, 0, new.model, new.on_disconnect, new.request, new.context,
                    b"job", new.owner,
                )
            )  # fmt: skip
        return claims

    def append(
        self, stream_id: str, epoch: int, first: int, entries: list[bytes], end: str, tells: bool
    ) -> AppendReply:
        stream = self.streams.get(stream_id)
        if stream is None:
            return AppendReply("gone", 0, 0, cancel_wanted=False)
        last, final, cancel = stream.last, first + len(entries) - 1, stream.cancel
        if stream.epoch != epoch or (stream.state != "running" and final > last):
            return AppendReply("fenced", last, 0, cancel)
        if first > last + 1:
            return AppendReply("hole", last, 0, cancel)
        if final <= last:
            return AppendReply("ok", last, -1, cancel)
        self._write(stream, last + 1, entries[last + 1 - first :])
        if tells:
            stream.told = 1
        if end:
            self._settle(stream, end)
        elif last == 0:
            stream.log_dies = self.after(max(RETENTION_MS, LIVE_MS))
        return AppendReply("ok", final, int(stream.is_heard), cancel)

    def renew(self, held: list[tuple[str, int]]) -> RenewReply:
        lost, cancelled, heard = set(), set(), set()
        for stream_id, epoch in held:
            stream = self.streams.get(stream_id)
            if stream is None or stream.epoch != epoch or stream.state != "running":
                lost.add(stream_id)
                continue
            stream.suspect, stream.lease = False, self.after(LEASE_MS)
            stream.meta_dies = self.after(RETENTION_MS + TOMBSTONE_MS)
            stream.log_dies = self.after(max(RETENTION_MS, LIVE_MS))
            if stream.cancel:
                cancelled.add(stream_id)
            if stream.is_heard:
                heard.add(stream_id)
        return RenewReply(frozenset(lost), frozenset(cancelled), frozenset(heard))

    def release(self, stream_id: str, epoch: int) -> int:
        stream = self.streams.get(stream_id)
        if stream is None or stream.epoch != epoch or stream.state != "running" or stream.told or stream.cancel:
            return 0
        self._requeue(stream)
        return 1

    def share(self, worker: str, model: str, old: bytes, new: bytes, ends_trial: bool, kept_ms: int) -> frozenset[str]:
        is_stored = bool(new) and self.health.get(model, b"") == old
        if is_stored:
            self.health[model], self.health_dies = new, self.after(kept_ms)
        if (is_stored or not new) and ends_trial and self.trials.get(model) == worker:
            del self.trials[model]
        return frozenset([model] if is_stored else [])

    # -- an edge's -----------------------------------------------------------------------------------------------------

    def cancel(self, stream_id: str) -> str:
        stream = self.streams.get(stream_id)
        if stream is None:
            return ""
        if stream.state == "queued":
            self._finish(stream, CANCELLED, "cancelled")
        elif stream.state == "running":
            stream.cancel = True
            self.said.append((keys.CANCEL, stream_id.encode()))
            return "cancelling"
        return stream.state

    def _over(self) -> list[tuple[str, str]]:
        """In a cluster, what has ended and is still in its owner's set."""
        return []

    def reap(self) -> ReapReply:
        lost = again = late = 0
        self.leases_of_nothing.clear()
        for stream in [each for each in self.in_state("running") if each.lease[1] <= self.at[0]]:
            if not stream.suspect:
                stream.suspect, stream.lease = True, self.after(SUSPICION_MS)
            elif not stream.told and stream.epoch < MAX_ATTEMPTS and not stream.cancel:
                self._requeue(stream)
                again += 1
            else:
                self._finish(stream, LOST, "failed")
                lost += 1
        self._drop_overdue()
        for stream in [each for each in self.waiting() if each.since[1] + MAX_WAIT_MS <= self.at[0]]:
            self._finish(stream, LATE, "failed")
            late += 1
        return ReapReply(lost, again, late, frozenset(self._over()))  # type: ignore[arg-type]  # in any order

    def forget(self, stream_id: str) -> int:
        stream = self.streams.get(stream_id)
        if stream is None:
            return 0
        stream.deleted, stream.due = True, None
        if stream.has_ended:
            stream.has_log = False
        return 1

    def take_due(self, most: int, lease_ms: int) -> DueReply:
        all_due = [each for each in self.streams.values() if each.due is not None and each.due[1] <= self.at[0]]
        taken = []
        for stream in sorted(all_due, key=lambda each: (each.due, each.id))[:most]:
            assert stream.notify is not None
            stream.due, stream.notify = self.after(lease_ms), stream.notify + 1
            taken.append(Ended(stream.id, stream.notify, 0))
        dropped, self.dropped = self.dropped, 0
        return DueReply(taken, sum(each.due is not None for each in self.streams.values()), dropped)

    def notified(self, stream_id: str, again_ms: int | None) -> int:
        stream = self.streams.get(stream_id)
        if stream is None or stream.due is None:
            return 0
        if again_ms is not None:
            stream.due = self.after(again_ms)
            return 1
        stream.due, stream.notify = None, None
        stream.log_dies = stream.ended[0] + RETENTION_MS, stream.ended[1] + RETENTION_MS
        stream.has_log = stream.has_log and stream.log_dies[0] > self.at[1]
        return 1

    def lose(self, stream_id: str) -> None:
        """Redis lost its metadata."""
        if self.streams.pop(stream_id).state == "running":
            self.leases_of_nothing.add(stream_id)


def can_answer(models: tuple[str, ...], needs: str) -> bool:

    return not needs or bool(set(models) & set(msgspec.json.decode(needs, type=list[Any])))
