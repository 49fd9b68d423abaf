"""What workers do."""

from __future__ import annotations

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.model.edge_steps import EdgeSteps
from tests.model.state import LEASE_MS, RETENTION_MS, UNREADABLE
from tests.model.steps import KEPT_MS, MODELS, SAME_AGAIN, mostly, seldom
from tokenrelay.protocol.store import keys, scripts
from tokenrelay.protocol.store.partitions import GLOBAL
from tokenrelay.protocol.store.scripts import Share


class WorkerSteps(EdgeSteps):
    @rule(most=st.integers(1, 4), worker=st.sampled_from(["w1", "w2"]), models=st.sets(st.sampled_from(MODELS)))
    def claim(self, most: int, worker: str, models: set[str]) -> None:
        can = tuple(sorted(models))
        found = self.run(scripts.CLAIM, scripts.claim(most, LEASE_MS, worker, UNREADABLE, RETENTION_MS, can))
        claims = scripts.claim_reply(found)
        created = {each: self.model.streams[each].created for each in self.model.streams}
        expected = self.model.claim(most, worker, can)
        assert [msgspec.structs.replace(each, age_ms=0) for each in claims] == expected
        for each in claims:
            oldest, newest = self.on.at[1] - created[each.stream_id][0], self.on.at[0] - created[each.stream_id][1]
            assert newest <= each.age_ms <= oldest

    @precondition(lambda self: self.is_there())
    @rule(
        data=st.data(), epoch=st.sampled_from([0, 0, 0, -1, 1]), first=st.sampled_from([1, 1, 1, 0, -1, 2]),
        number=st.integers(1, 3), end=st.sampled_from(["", "", "", "completed", "failed", "cancelled"]),
        tells=st.booleans(), again=SAME_AGAIN,
    )  # fmt: skip
    def append(
        self, data: st.DataObject, epoch: int, first: int, number: int, end: str, tells: bool, again: bool
    ) -> None:
        is_running = self.is_there("running") and data.draw(mostly, label="running")
        stream = self.pick(data, "running") if is_running else self.pick(data)
        epoch, first = max(0, stream.epoch + epoch), max(1, stream.last + first)
        entries = [b"%d.%d;" % (epoch, n) for n in range(first, first + number)]
        name = self.on.stream_id(999) if data.draw(seldom, label="of nothing") else stream.id
        for _ in range(1 + again):
            self.append_as(name, epoch, first, entries, end, tells)

    @precondition(lambda self: self.is_there("running"))
    @rule(
        data=st.data(),
        number=st.integers(1, 3),
        twice=st.integers(0, 2),
        tells=st.booleans(),
        ends=seldom,
        deleted=seldom,
    )
    def write(self, data: st.DataObject, number: int, twice: int, tells: bool, ends: bool, deleted: bool) -> None:
        """As most appends are; some entries may be there already. Its owner may have deleted it."""
        stream = self.pick(data, "running")
        if ends and deleted:
            assert self.run(scripts.FORGET, scripts.forget(stream.id)) == self.model.forget(stream.id)
        first = max(1, stream.last + 1 - twice)
        entries = [b"%d.%d;" % (stream.epoch, n) for n in range(first, stream.last + 1 + number)]
        self.append_as(stream.id, stream.epoch, first, entries, "completed" if ends else "", tells)

    def append_as(self, name: str, epoch: int, first: int, entries: list[bytes], end: str, tells: bool) -> None:
        arguments = scripts.append(name, epoch, first, entries, end_state=end, retention_ms=RETENTION_MS, tells=tells)
        reply = scripts.append_reply(self.run(scripts.APPEND if end else scripts.APPEND_MORE, arguments))
        assert reply == self.model.append(name, epoch, first, entries, end, tells)

    @precondition(lambda self: self.is_there())
    @rule(data=st.data(), wrong=seldom, is_old=st.booleans(), again=SAME_AGAIN)
    def renew(self, data: st.DataObject, wrong: bool, is_old: bool, again: bool) -> None:
        running = self.model.in_state("running")
        known = (
            running if len(running) > 0 and data.draw(mostly, label="running") else list(self.model.streams.values())
        )
        streams = data.draw(st.lists(st.sampled_from(known), unique_by=lambda each: each.id, min_size=1), label="held")
        if is_old:
            self.age(streams[0])
        held = [(each.id, each.epoch) for each in streams] + [(each, 1) for each in self.model.leases_of_nothing]
        if wrong:
            held[0] = held[0][0], held[0][1] + 1
        for _ in range(1 + again):
            reply = scripts.renew_reply(self.run(scripts.RENEW, scripts.renew(LEASE_MS, RETENTION_MS, held)))
            assert reply == self.model.renew(held)

    @precondition(lambda self: self.is_there())
    @rule(data=st.data(), epoch=st.sampled_from([0, 0, 0, -1, 1]), again=SAME_AGAIN)
    def release(self, data: st.DataObject, epoch: int, again: bool) -> None:
        stream = self.pick(data, "running") if self.is_there("running") else self.pick(data)
        if stream.state == "running" and not stream.suspect and data.draw(seldom, label="suspect"):
            stream.lease = self.past("ZADD", self.on.name(keys.LEASES), stream.id)
            self.reap(again=False)
        if stream.state == "running" and not stream.told and data.draw(seldom, label="told"):
            self.append_as(stream.id, stream.epoch, stream.last + 1, [b"told"], "", tells=True)
        elif stream.state == "running" and not stream.told and data.draw(seldom, label="cancelled"):
            self.cancel_as(stream.id)
        number = max(0, stream.epoch + epoch)
        for _ in range(1 + again):
            reply = self.run(scripts.RELEASE, scripts.release(stream.id, number))
            assert reply == self.model.release(stream.id, number)

    @rule(
        worker=st.sampled_from(["w1", "w2"]), model=st.sampled_from(MODELS), knows=mostly, new=st.integers(0, 3),
        ends_trial=st.booleans(), tries=st.sampled_from(["", "w1", "w2"]), again=SAME_AGAIN,
    )  # fmt: skip
    def share(self, worker: str, model: str, knows: bool, new: int, ends_trial: bool, tries: str, again: bool) -> None:
        if tries:
            self.on.ask(["SET", self.on.names.for_all(keys.trial(model)), tries])
            self.model.trials[model] = tries
        old = self.model.health.get(model, b"") if knows else b"old"
        text = b"%d-%d" % (new, self.count) if new else b""
        for _ in range(1 + again):
            item = Share(model, old, text, ends_trial)
            reply = scripts.share_reply(
                self.run(scripts.SHARE, scripts.share(worker, KEPT_MS, [item], self.on.names), GLOBAL)
            )
            assert reply == self.model.share(worker, model, old, text, ends_trial, KEPT_MS)
