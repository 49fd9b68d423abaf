"""What edges do."""

from __future__ import annotations

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.model.state import CANCELLED, LATE, LOST, MAX_WAIT_MS, RETENTION_MS, Parts
from tests.model.steps import NEEDS, SAME_AGAIN, Steps, mostly, owners, seldom
from tokenrelay.protocol.store import keys, scripts
from tokenrelay.protocol.store.scripts import HOLD_MS, Limits, NewStream


class EdgeSteps(Steps):
    # -- starts --------------------------------------------------------------------------------------------------------

    def new_id(self) -> str:
        self.count += 1
        return self.on.stream_id(self.count)

    @rule(owner=owners, sizes=st.lists(st.integers(5, 25), min_size=1, max_size=2), write=mostly, again=SAME_AGAIN)
    def hold(self, owner: str, sizes: list[int], write: bool, again: bool) -> None:
        stream_id = self.new_id()
        held = scripts.held_parts(stream_id, owner, sizes)
        parts, has_room = Parts(held, owner, sum(sizes), len(sizes), (0, 0)), False
        for _ in range(1 + again):
            reply = self.run(scripts.HOLD, scripts.hold(held, 70, 40))
            has_room = self.model.hold(parts, 70, 40)
            assert scripts.hold_reply(reply) == has_room
        if has_room and write:
            self.on.ask(*(["SET", keys.part(stream_id, n), "x" * sizes[n], "PX", HOLD_MS] for n in range(len(sizes))))
            self.model.parts[stream_id].is_written = True

    def unstarted(self) -> list[str]:
        started = set().union(*self.model.listed.values())  # lost ones among them
        return [name for name in self.model.parts if name not in started]

    @precondition(lambda self: self.model.parts)
    @rule(data=st.data(), again=SAME_AGAIN, is_overdue=st.booleans())
    def drop(self, data: st.DataObject, again: bool, is_overdue: bool) -> None:
        """Or nobody does, and its time is over."""
        if is_overdue and self.unstarted():
            parts = self.model.parts[data.draw(st.sampled_from(self.unstarted()), label="of")]
            parts.until = self.past("ZADD", self.on.name(keys.PARTS), parts.held)
            return
        stream_id = data.draw(st.sampled_from(sorted(self.model.parts)), label="of")
        held = self.model.parts[stream_id].held
        for _ in range(1 + again):
            reply = self.run(scripts.DROP, scripts.drop(held))
            assert (reply or 0) == self.model.drop(stream_id)

    @rule(
        data=st.data(), owner=owners, needs=st.sampled_from(NEEDS), size=st.integers(1, 30), notify=st.booleans(),
        key=st.sampled_from([None, "k1"]), body=st.sampled_from(["b", "other"]), listens=st.booleans(),
        chat=st.sampled_from([None, "c1"]), again=SAME_AGAIN,
    )  # fmt: skip
    def start(
        self, data: st.DataObject, owner: str, needs: str, size: int, notify: bool, key: str | None, body: str,
        listens: bool, chat: str | None, again: bool,
    ) -> None:  # fmt: skip
        stream_id, parts = self.new_id(), ""
        if data.draw(st.booleans(), label="holds parts"):
            self.hold(owner, [5, 6], write=True, again=False)
        held = self.unstarted()
        if len(held) > 0 and data.draw(mostly, label="with parts"):
            stream_id = data.draw(st.sampled_from(held), label="parts")
            parts, owner = self.model.parts[stream_id].held, self.model.parts[stream_id].owner
        elif data.draw(seldom, label="parts that are gone"):
            parts = scripts.held_parts(stream_id, owner, [5])
        new = NewStream(
            stream_id, owner, "m", b"r" * size, "continue", key, body, context=b"", parts=parts, must_notify=notify,
            chat_id=chat, turn=self.count, needs=needs,
        )  # fmt: skip
        for _ in range(1 + again):
            self.start_as(new, self.limits)
        if listens and stream_id in self.model.streams:
            self.listen_to(stream_id)

    def listen_to(self, stream_id: str) -> None:
        self.on.listen(keys.live(stream_id))
        self.model.streams[stream_id].is_heard = True

    def start_as(self, new: NewStream, limits: Limits) -> None:
        arguments = scripts.start(new, limits, job=b"job", job_ttl_ms=99_000, retention_ms=RETENTION_MS)
        reply = scripts.start_reply(self.run(scripts.START, arguments))
        expected = self.model.start(new, limits)
        if reply.outcome == expected.outcome == "limited":
            assert 0 < reply.retry_ms <= 60_000 // limits.per_minute
            reply = msgspec.structs.replace(reply, retry_ms=0)
        if reply.outcome == expected.outcome == "started" and limits.per_minute:
            assert expected.reset_ms - 25_000 <= reply.reset_ms <= expected.reset_ms
            reply = msgspec.structs.replace(reply, reset_ms=expected.reset_ms)
        assert reply == expected

    @rule(owner=owners, number=st.integers(2, 4), size=st.integers(1, 30))
    def start_some(self, owner: str, number: int, size: int) -> None:
        for _ in range(number):
            self.start_as(NewStream(self.new_id(), owner, "m", b"r" * size, "continue", None, "b"), self.limits)

    # -- edges ---------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.is_there())
    @rule(data=st.data(), again=SAME_AGAIN)
    def cancel(self, data: st.DataObject, again: bool) -> None:
        stream_id = self.pick(data).id
        for _ in range(1 + again):
            self.cancel_as(stream_id)

    def cancel_as(self, stream_id: str) -> None:
        reply = self.run(scripts.CANCEL, scripts.cancel(stream_id, CANCELLED, RETENTION_MS))
        assert reply.decode() == self.model.cancel(stream_id)

    @rule(again=SAME_AGAIN)
    def reap(self, again: bool) -> None:
        for _ in range(1 + again):
            reply = self.run(scripts.REAP, scripts.reap(100, LOST, LATE, MAX_WAIT_MS, RETENTION_MS))
            found = scripts.reap_reply(reply)
            assert msgspec.structs.replace(found, over=frozenset(found.over)) == self.model.reap()

    @precondition(lambda self: self.is_there())
    @rule(data=st.data(), again=SAME_AGAIN)
    def forget(self, data: st.DataObject, again: bool) -> None:
        stream_id = self.pick(data).id
        for _ in range(1 + again):
            assert self.run(scripts.FORGET, scripts.forget(stream_id)) == self.model.forget(stream_id)

    @precondition(lambda self: self.model.dropped or any(each.due for each in self.model.streams.values()))
    @rule(most=st.integers(1, 3), lease_ms=st.sampled_from([30_000, 45_000]), again=SAME_AGAIN)
    def due(self, most: int, lease_ms: int, again: bool) -> None:
        for _ in range(1 + again):
            reply = scripts.due_reply(self.run(scripts.DUE, scripts.due(most, lease_ms)))
            ended = {each.id: each.ended for each in self.model.streams.values()}
            expected = self.model.take_due(most, lease_ms)
            for each in reply.taken:
                assert self.on.at[0] - ended[each.stream_id][1] <= each.age_ms
                assert each.age_ms <= self.on.at[1] - ended[each.stream_id][0]
            taken = [msgspec.structs.replace(each, age_ms=0) for each in reply.taken]
            assert msgspec.structs.replace(reply, taken=taken) == expected

    @precondition(lambda self: any(each.has_ended for each in self.model.streams.values()))
    @rule(data=st.data(), again_ms=st.sampled_from([None, None, 10_000]), is_late=st.booleans(), again=SAME_AGAIN)
    def notified(self, data: st.DataObject, again_ms: int | None, is_late: bool, again: bool) -> None:
        due = [each for each in self.model.streams.values() if each.due is not None]
        stream_id = data.draw(st.sampled_from(due), label="stream").id if due else self.pick(data).id
        if is_late and due:
            self.its_retention_is_over(self.model.streams[stream_id])
        for _ in range(1 + again):
            before = self.model.streams[stream_id].due
            reply = self.run(scripts.NOTIFIED, scripts.notified(stream_id, again_ms, RETENTION_MS))
            expected = self.model.notified(stream_id, again_ms)
            after = self.model.streams[stream_id].due
            is_same = before is not None and after is not None and before[0] <= after[1] and after[0] <= before[1]
            assert reply == expected or (is_same and reply == 0)  # in the same millisecond nothing changes
