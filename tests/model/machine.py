"""A hypothesis machine: random steps of edges, workers, clocks and a bad network, each on a real server and on the
model; after each, both are compared whole. `machine_on(world)` gives it for one server."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from tests.model.check import check
from tests.model.steps import LIMITS, MODELS, NEEDS, ROOMY, owners, seldom
from tests.model.worker_steps import WorkerSteps
from tokenrelay.protocol.store import keys
from tokenrelay.protocol.store.scripts import Limits, NewStream


class Machine(WorkerSteps):
    @initialize(
        streams=st.lists(
            st.tuples(owners, st.sampled_from(NEEDS), st.booleans(), st.booleans()), min_size=1, max_size=4
        ),
        running=st.integers(0, 4),
        key=st.sampled_from([None, "k1"]),
        limits=st.sampled_from([ROOMY, ROOMY, ROOMY, *LIMITS]),
    )
    def begin(self, streams: list[tuple[str, str, bool, bool]], running: int, key: str | None, limits: Limits) -> None:
        """Some wait and some run when it begins: most of what can go wrong does with these."""
        self.limits = limits
        self.on.begin()
        for owner, needs, notify, listens in streams:
            self.hold(owner, [5, 6], write=True, again=False)
            [stream_id] = self.unstarted()[-1:] or [self.new_id()]
            parts = self.model.parts[stream_id].held if stream_id in self.model.parts else ""
            new = NewStream(
                stream_id, owner, "m", b"request", "continue", key, "b", parts=parts, must_notify=notify, needs=needs
            )
            self.start_as(new, ROOMY)
            if listens and new.stream_id in self.model.streams:
                self.listen_to(new.stream_id)
        if running:
            self.claim(running, "w1", set(MODELS))

    def teardown(self) -> None:
        self.on.end()

    @invariant()
    def everything_stands_as_it_should(self) -> None:
        check(self.on, self.model)

    # -- time, and what else happens -----------------------------------------------------------------------------------

    @precondition(lambda self: self.is_there("running"))
    @rule(data=st.data())
    def a_lease_runs_out(self, data: st.DataObject) -> None:
        stream = self.pick(data, "running")
        stream.lease = self.past("ZADD", self.on.name(keys.LEASES), stream.id)

    @precondition(lambda self: self.is_there("running"))
    @rule(data=st.data(), times=st.integers(1, 3))
    def its_workers_die(self, data: st.DataObject, times: int) -> None:
        """A lease runs out, somebody looks, it runs out again; another worker takes it and dies in its turn."""
        stream = self.pick(data, "running")
        for turn in range(2 * times):
            stream.lease = self.past("ZADD", self.on.name(keys.LEASES), stream.id)
            self.reap(again=False)
            if stream.state == "queued" and turn + 1 < 2 * times:
                self.claim(100, "w2", set(MODELS))
            if stream.state != "running":
                return

    @precondition(lambda self: self.is_there("queued"))
    @rule(data=st.data())
    def one_waits_long(self, data: st.DataObject) -> None:
        stream = self.pick(data, "queued")
        stream.since = self.past("ZADD", self.on.name(keys.WAITING), stream.id)
        if stream.new.needs:
            self.on.ask(["ZADD", self.on.name(keys.waiting_for(stream.new.needs)), stream.since[0], stream.id])

    @precondition(lambda self: any(each.due for each in self.model.streams.values()))
    @rule(data=st.data())
    def a_webhook_is_due_again(self, data: st.DataObject) -> None:
        due = [each for each in self.model.streams.values() if each.due is not None]
        stream = data.draw(st.sampled_from(due), label="stream")
        stream.due = self.past("ZADD", self.on.name(keys.ENDED), stream.id)

    @precondition(lambda self: self.is_there("queued"))
    @rule(data=st.data())
    def metadata_lacks_something(self, data: st.DataObject) -> None:
        stream = self.pick(data, "queued")
        stream.broken = True
        self.on.ask(["HDEL", keys.meta(stream.id), "model"])

    @precondition(lambda self: self.is_there("running"))
    @rule(data=st.data())
    def metadata_is_lost(self, data: st.DataObject) -> None:
        """It still stands with its owner's, who starts another with as many as there may be."""
        stream = self.pick(data, "running")
        self.past("ZADD", self.on.name(keys.LEASES), stream.id)
        self.on.ask(["DEL", keys.meta(stream.id), self.on.arq_job(stream.id)])
        self.model.lose(stream.id)
        self.lost.add(stream.id)
        owner = stream.new.owner
        most = len(self.model.active[owner])
        self.start_as(NewStream(self.new_id(), owner, "m", b"r", "continue", None, "b"), Limits(100, max_active=most))

    @rule(owner=owners, room=seldom)
    def a_minute_passes(self, owner: str, room: bool) -> None:
        self.on.ask(["DEL", self.on.names.rate(owner)])
        self.model.rate.pop(owner, None)
        if room:  # in it an end found no room to wait for its webhook
            self.on.ask(["INCR", self.on.name(keys.ENDED_DROPPED)])
            self.model.dropped += 1
