"""The states of a generation and the transitions between them, as a table; tests check that the Lua scripts obey it."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from tokenrelay.protocol.events import Completion, Terminal

State: TypeAlias = Literal["queued", "running", "completed", "cancelled", "failed"]
PublicState: TypeAlias = Literal["queued", "running", "cancelling", "completed", "cancelled", "failed"]

ENDED: Final[frozenset[str]] = frozenset({"completed", "cancelled", "failed"})

# (from, what happens, to). There are no others: a script that is asked for another refuses.
TRANSITIONS: Final[tuple[tuple[State, str, State], ...]] = (
    ("queued", "claim", "running"),
    ("queued", "cancel", "cancelled"),
    ("queued", "waited too long", "failed"),
    ("running", "complete", "completed"),
    ("running", "cancelled by its worker", "cancelled"),
    ("running", "fail", "failed"),
    ("running", "lease expired, no output yet", "queued"),
    ("running", "lease expired", "failed"),
    ("running", "requeued, no output yet", "queued"),
)

MAX_ATTEMPTS: Final = 3
"""How often a generation without output is started: one that kills its worker must not kill them all."""

TOLD_NOTHING: Final = 1
"""Entry 1 is always `started`. Output is a token, a tool call or result, or data: the metadata's `told` says whether
there was any. Where it is missing (an earlier version's worker), everything after `started` counts as output."""


def state_after(end: Terminal) -> State:
    """The state in which an end leaves its generation."""
    if not isinstance(end, Completion):
        return "failed"
    return "cancelled" if end.finish_reason == "cancelled" else "completed"


def public_state(state: State, cancel_wanted: bool) -> PublicState:
    """The state as clients see it."""
    return "cancelling" if state == "running" and cancel_wanted else state
