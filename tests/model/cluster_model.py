"""What differs in a cluster: an owner's limits are another slot's, so a start is two scripts, and an end is told to the
owner's set by whoever learns of it."""

from __future__ import annotations

from collections.abc import Sequence

from tests.model.model import Model
from tests.model.state import Stream, Window
from tokenrelay.protocol.store import keys
from tokenrelay.protocol.store.scripts import Limits, NewStream, ReapReply, ReserveReply, StartReply
from tokenrelay.protocol.store.scripts.reserving import YOUNG_MS
from tokenrelay.protocol.store.scripts.starting import LOOKED_AT


class ClusterModel(Model):
    def __init__(self) -> None:
        super().__init__()
        self.taken_at: dict[str, Window] = {}  # score of a stream in its owner's set
        self.keyed_at: dict[tuple[str, str], Window] = {}  # when an Idempotency-Key was
        self._ended: list[tuple[str, str]] = []  # by the script that runs

    def _leave_active(self, stream: Stream) -> None:
        self._ended.append((stream.id, keys.CLUSTER.active(stream.new.owner)))

    def _over(self) -> list[tuple[str, str]]:
        return self._ended

    def reap(self) -> ReapReply:
        self._ended = []
        return super().reap()

    def _too_many(self, new: NewStream, limits: Limits) -> StartReply | None:
        return None

    def reserve(
        self, new: NewStream, limits: Limits, replaces: str, ended: Sequence[str], alive: Sequence[str]
    ) -> ReserveReply:
        key, active = (new.owner, new.idempotency_key or ""), self.active.setdefault(new.owner, set())
        known, fingerprint = self.idem.get(key, ("", ""))
        if known not in ("", new.stream_id, replaces):
            return ReserveReply("existing" if fingerprint == new.fingerprint else "conflict", known)
        if new.stream_id in active:
            return ReserveReply("reserved")
        active -= set(ended)
        self.taken_at |= {each: self.at for each in alive if each in active}
        if limits.max_active and len(active) >= limits.max_active:
            old = [each for each in active if self.taken_at[each][1] <= self.at[0] - YOUNG_MS]
            old.sort(key=lambda each: (self.taken_at[each], each))
            return ReserveReply("busy", bound=limits.max_active, candidates=tuple(old[:LOOKED_AT]))
        allowed = self._take_turn(new, limits)
        if allowed is None:
            return ReserveReply("limited", bound=limits.per_minute)
        self._enlist(new)
        self.taken_at[new.stream_id] = self.keyed_at[key] = self.at
        return ReserveReply("reserved", remaining=allowed[0], reset_ms=allowed[1])

    def start_reserved(self, new: NewStream, limits: Limits) -> StartReply:
        if new.stream_id in self.streams:
            return StartReply("started", new.stream_id)
        if new.parts and not (new.stream_id in self.parts and self.parts[new.stream_id].is_written):
            return StartReply("lost", new.stream_id)
        refused = self._no_room(new, limits)
        if refused is not None:
            return refused
        self._make(new)
        return StartReply("started", new.stream_id)

    def give_back(self, new: NewStream, limits: Limits) -> int:
        owner, stream_id = new.owner, new.stream_id
        if stream_id not in self.active.get(owner, set()):
            return 0
        self.active[owner].discard(stream_id)
        self.listed[owner].discard(stream_id)
        if limits.per_minute and owner in self.rate:
            self.rate[owner] = max(0, self.rate[owner] - 1)
        if self.idem.get((owner, new.idempotency_key or ""), ("", ""))[0] == stream_id:
            del self.idem[owner, new.idempotency_key or ""]
        if self.chats.get((owner, new.chat_id or "")) == stream_id:
            del self.chats[owner, new.chat_id or ""]
        return 1
