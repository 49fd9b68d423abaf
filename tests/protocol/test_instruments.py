"""Counts add up: within a process, over several, and across the death of one."""

from __future__ import annotations

import pytest

from tokenrelay.protocol.runtime import instruments
from tokenrelay.protocol.runtime.instruments import Instruments


class Counts(Instruments):
    def __init__(self) -> None:
        super().__init__()
        self.done = self.counter("done_total", "Done", how=("well", "badly"))
        self.named = self.counter("named_total", "Named", model=())
        self.now = self.gauge("now", "Now")
        self.age = self.gauge("age", "Oldest", "max")
        self.took = self.histogram("took_seconds", "Took", (0.1, 1.0))


def counted(done: int, now: float, *took: float) -> Counts:
    counts = Counts()
    counts.done.labels("well").inc(done)
    counts.now.set(now)
    counts.age.set(now)
    for seconds in took:
        counts.took.observe(seconds)
    return counts


def test_what_nobody_touched_is_zero_and_not_absent() -> None:
    state = Counts().read()
    assert dict(state["done_total"]) == {("well",): [0], ("badly",): [0]}
    assert state["named_total"] == []  # its values are not known before they come


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0.0, 0), (0.1, 0), (0.1000001, 1), (1.0, 1), (1.1, 2), (1e9, 2)], ids=str
)
def test_a_bound_belongs_to_its_bucket(seconds: float, bucket: int) -> None:
    counts = counted(0, 0, seconds)
    [(_, values)] = counts.read()["took_seconds"]
    assert values == [*(float(at == bucket) for at in range(3)), seconds]


def test_a_series_has_all_labels_of_its_row() -> None:
    with pytest.raises(ValueError, match="'how'"):
        Counts().done.labels("well", "twice")


def test_several_processes_are_one() -> None:
    ours, theirs, dead = counted(1, 2, 0.05), counted(10, 5, 0.05, 3.0), counted(100, 7, 0.5)
    rows = ours.rows
    states = [(ours.read(), True), (instruments.unpack(instruments.pack(theirs.read())), True), (dead.read(), False)]
    whole = instruments.joined(rows, states)
    assert dict(whole["done_total"])[("well",)] == [111]  # what a dead one counted happened
    assert dict(whole["now"])[()] == [7]  # but nothing of it is now
    assert dict(whole["age"])[()] == [5]
    [(_, values)] = whole["took_seconds"]
    assert values == [2, 1, 1, pytest.approx(3.6)]


def test_a_successor_carries_on() -> None:
    before, after = counted(7, 3, 0.05), Counts()
    held = after.done.labels("well")
    after.carry_on(instruments.unpack(instruments.pack(before.read())))
    held.inc()  # one that was looked up before goes on as well
    assert dict(after.read()["done_total"])[("well",)] == [8]
    assert dict(after.read()["now"])[()] == [0] if after.read()["now"] else True
    assert after.read()["took_seconds"][0][1][0] == 1


def test_a_predecessor_with_other_buckets_is_left_out() -> None:
    after = Counts()
    after.carry_on({"took_seconds": [((), [1.0, 2.0])], "done_total": [(("well",), [2.0])]})
    assert after.read()["took_seconds"][0][1] == [0, 0, 0, 0]
    assert dict(after.read()["done_total"])[("well",)] == [2]
