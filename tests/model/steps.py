"""What all steps of the machine share: what they draw from, how they ask, how time passes."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine

from tests.model.model import Model
from tests.model.state import Stream
from tests.model.world import PAST_MS, World
from tokenrelay.protocol.store import keys, scripts
from tokenrelay.protocol.store.scripts import Limits

MODELS = ("a", "b")
NEEDS = ("", scripts.needs(["a"]), scripts.needs(["a", "b"]), scripts.needs(["b"]))
ROOMY = Limits(100)
LIMITS = (
    Limits(100, per_minute=2), Limits(3), Limits(100, max_active=2), Limits(100, max_bytes=40),
    Limits(4, share_percent=50), Limits(100, max_bytes=60, share_percent=50),
)  # fmt: skip
SAME_AGAIN = st.sampled_from([False, False, True])  # the reply was lost, and it is asked again
KEPT_MS = 50_000

mostly = st.integers(0, 3).map(lambda number: number < 3)
seldom = st.integers(0, 3).map(lambda number: number == 3)
owners = st.sampled_from(["alice", "bob"])


class Steps(RuleBasedStateMachine):
    on: World  # set by `planted.machine_on`

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.count = 0
        self.limits = ROOMY
        self.lost: set[str] = set()

    def run(self, script: scripts.Script, arguments: list[scripts.Argument], tag: str | None = None) -> Any:
        """`tag`: of its slot, where that is not the streams'."""
        reply = self.on.run(script, arguments, tag)
        self.model.at = self.on.at
        return reply

    def pick(self, data: st.DataObject, *states: str) -> Stream:
        found = self.model.in_state(*states) if states else list(self.model.streams.values())
        return data.draw(st.sampled_from(found), label="stream")

    def is_there(self, *states: str) -> bool:
        return bool(self.model.in_state(*states) if states else self.model.streams)

    def past(self, command: str, name: str, member: str) -> tuple[int, int]:
        """A score is long ago: what a wait would do, without one."""
        self.on.ask()
        score = self.on.at[0] - PAST_MS
        self.on.ask([command, name, score, member])
        return score, score

    def age(self, stream: Stream) -> None:
        """Its times to live are shorter than they were made."""
        self.on.ask(["PEXPIRE", keys.meta(stream.id), PAST_MS], ["PEXPIRE", keys.log(stream.id), PAST_MS])
        stream.meta_dies = stream.log_dies = self.on.at[0] + PAST_MS, self.on.at[1] + PAST_MS

    def its_retention_is_over(self, stream: Stream) -> None:
        stream.ended = stream.ended[0] - PAST_MS, stream.ended[1] - PAST_MS
        self.on.ask(["HINCRBY", keys.meta(stream.id), "ended", -PAST_MS])
