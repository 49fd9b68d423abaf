"""The machine on a cluster: starts in two steps, edges that die between them, owners' sets that learn of ends late."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from tests.model.check import everything_of_owners, scored, within
from tests.model.cluster_model import ClusterModel
from tests.model.machine import Machine
from tests.model.state import RETENTION_MS
from tests.model.steps import ROOMY, SAME_AGAIN, owners
from tokenrelay.protocol.store import scripts
from tokenrelay.protocol.store.scripts import Limits, NewStream, ReserveReply, StartReply

PACED = Limits(100, per_minute=2)


class ClusterMachine(Machine):
    model: ClusterModel

    def __init__(self) -> None:
        super().__init__()
        self.model = ClusterModel()
        self.reserved: list[NewStream] = []  # and not started: their edge has died

    @invariant()
    def reservations_stand_as_they_should(self) -> None:
        for owner, active in self.model.active.items():
            [found] = self.on.ask(["ZRANGE", self.on.names.active(owner), 0, -1, "WITHSCORES"])
            scores = scored(found)
            for name in active:
                self.model.taken_at[name] = within(name, scores[name.encode()], self.model.taken_at[name])

    # -- a start -------------------------------------------------------------------------------------------------------

    def start_as(self, new: NewStream, limits: Limits) -> None:
        """As an edge does it."""
        reply = self.reserve_as(new, limits)
        if reply.outcome == "busy":
            alive = [each for each in reply.candidates if self.is_under_way(each)]
            ended = [each for each in reply.candidates if each not in alive]
            reply = self.reserve_as(new, limits, ended=ended, alive=alive) if ended else reply
        if reply.outcome == "existing" and reply.stream_id not in self.model.streams:
            if reply.stream_id in self.lost:
                reply = self.reserve_as(new, limits, replaces=reply.stream_id)
            elif not new.parts:
                self.make_as(msgspec.structs.replace(new, stream_id=reply.stream_id), limits)
        if reply.outcome == "reserved" and self.make_as(new, limits).outcome != "started":
            self.give_back_as(new, limits)

    def is_under_way(self, stream_id: str) -> bool:
        stream = self.model.streams.get(stream_id)
        return stream is not None and not stream.has_ended

    def reserve_as(
        self, new: NewStream, limits: Limits, replaces: str = "", ended: Sequence[str] = (), alive: Sequence[str] = ()
    ) -> ReserveReply:
        key = (new.owner, new.idempotency_key or "")
        keyed_at = self.model.keyed_at.get(key, (0, 0))
        arguments = scripts.reserve(new, limits, RETENTION_MS, replaces=replaces, ended=ended, alive=alive)
        reply = scripts.reserve_reply(self.run(scripts.RESERVE, arguments))
        expected = self.model.reserve(new, limits, replaces, ended, alive)
        assert reply.outcome == expected.outcome
        if reply.outcome in ("existing", "conflict"):
            assert self.on.at[0] - keyed_at[1] <= reply.age_ms <= self.on.at[1] - keyed_at[0]
        if reply.outcome == "limited":
            assert 0 < reply.retry_ms <= 60_000 // limits.per_minute
        if reply.reset_ms:
            assert expected.reset_ms - 25_000 <= reply.reset_ms <= expected.reset_ms
        assert msgspec.structs.replace(reply, age_ms=0, retry_ms=0, reset_ms=expected.reset_ms) == expected
        return reply

    def make_as(self, new: NewStream, limits: Limits) -> StartReply:
        arguments = scripts.start_reserved(new, limits, job=b"job", job_ttl_ms=99_000, retention_ms=RETENTION_MS)
        reply = scripts.start_reply(self.run(scripts.START_RESERVED, arguments))
        assert reply == self.model.start_reserved(new, limits)
        return reply

    def give_back_as(self, new: NewStream, limits: Limits) -> None:
        assert self.run(scripts.RETURN, scripts.give_back(new, limits)) == self.model.give_back(new, limits)

    @rule(owner=owners, key=st.sampled_from([None, "k1"]), chat=st.sampled_from([None, "c1"]), again=SAME_AGAIN)
    def an_edge_dies_after_it_has_reserved(self, owner: str, key: str | None, chat: str | None, again: bool) -> None:
        new = NewStream(self.new_id(), owner, "m", b"reserved", "continue", key, "b", chat_id=chat)
        reply = self.reserve_as(new, self.limits)
        if again:
            reply = self.reserve_as(new, self.limits)
        if reply.outcome == "reserved":
            self.reserved.append(new)

    @precondition(lambda self: self.reserved)
    @rule(data=st.data(), gives_back=st.booleans(), again=SAME_AGAIN)
    def it_was_not_dead(self, data: st.DataObject, gives_back: bool, again: bool) -> None:
        new = data.draw(st.sampled_from(self.reserved), label="reserved")
        self.reserved.remove(new)
        for _ in range(1 + again):
            if gives_back and new.stream_id not in self.model.streams:
                self.give_back_as(new, self.limits)
            else:
                self.make_as(new, ROOMY)

    @rule(
        owner=owners, key=st.sampled_from([None, "k2"]), number=st.integers(1, 2),
        limits=st.sampled_from([ROOMY, PACED]),
        meanwhile=st.sampled_from(["", "its chat goes on", "its key is another's"]), again=SAME_AGAIN,
    )  # fmt: skip
    def nothing_comes_of_it(
        self, owner: str, key: str | None, number: int, limits: Limits, meanwhile: str, again: bool
    ) -> None:
        """Room is reserved and returned, and then there is as much as before."""
        taken = []
        for at in range(number):
            new = NewStream(self.new_id(), owner, "m", b"r", "continue", None if at else key, "b", chat_id="c2")
            if self.reserve_as(new, limits).outcome == "reserved":
                taken.append(new)
        if taken and meanwhile == "its chat goes on":
            self.start_as(msgspec.structs.replace(taken[0], stream_id=self.new_id(), idempotency_key=None), ROOMY)
        if taken and key is not None and meanwhile == "its key is another's":
            other = msgspec.structs.replace(taken[0], stream_id=self.new_id())
            self.reserve_as(other, ROOMY, replaces=taken[0].stream_id)
        for new in reversed(taken):
            for _ in range(1 + again):
                self.give_back_as(new, limits)
            everything_of_owners(self.on, self.model)

    @rule(owner=owners)
    def one_that_has_left_is_taken_for_alive(self, owner: str) -> None:
        """Somebody looked, it ended, and another edge has taken it out of the set."""
        left = [each.id for each in self.model.in_state("completed", "failed", "cancelled")]
        left = [each for each in left if each not in self.model.active.get(owner, set())]
        new = NewStream(self.new_id(), owner, "m", b"reserved", "continue", None, "b")
        if self.reserve_as(new, self.limits, alive=left).outcome == "reserved":
            self.reserved.append(new)

    # -- the owner's set -----------------------------------------------------------------------------------------------

    @rule(owner=owners)
    def ends_are_told_to_the_owner(self, owner: str) -> None:
        active = self.model.active.get(owner, set())
        ended = sorted(each for each in active if each in self.model.streams and self.model.streams[each].has_ended)
        if ended:
            self.on.ask(["ZREM", self.on.names.active(owner), *ended])
            active -= set(ended)

    @rule(owner=owners)
    def reservations_grow_old(self, owner: str) -> None:
        for each in sorted(self.model.active.get(owner, set())):
            self.model.taken_at[each] = self.past("ZADD", self.on.names.active(owner), each)
