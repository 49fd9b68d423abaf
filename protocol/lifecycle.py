"""The states of a generation and what may follow what, as a table; the Lua scripts obey it, tests hold them to it."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from tokenrelay.protocol.events import Completion, Terminal

State: TypeAlias = Literal["queued", "running", "completed", "cancelled", "failed"]
PublicState: TypeAlias = Literal["queued", "running", "cancelling", "completed", "cancelled", "failed"]

ENDED: Final[frozenset[str]] = frozenset({"completed", "cancelled", "failed"})

# (from, what happens, to). What is not here cannot happen; a script that is asked for it refuses.
TRANSITIONS: Final[tuple[tuple[State, str, State], ...]] = (
    ("queued", "claim", "running"),
    ("queued", "cancel", "cancelled"),
    ("queued", "waited too long", "failed"),
    ("running", "complete", "completed"),
    ("running", "cancelled by its worker", "cancelled"),
    ("running", "fail", "failed"),
    ("running", "lease ran out, nothing told", "queued"),
    ("running", "lease ran out", "failed"),
    ("running", "handed back, nothing told", "queued"),
)

MAX_ATTEMPTS: Final = 3
"""How often a generation that has told nothing is started: one that kills each worker must not visit them all."""

TOLD_NOTHING: Final = 1
"""Entry 1 is always `started`; a log whose last id is at most this has told a client nothing that binds us."""


def state_after(end: Terminal) -> State:
    """The state in which an end leaves its generation."""
    if not isinstance(end, Completion):
        return "failed"
    return "cancelled" if end.finish_reason == "cancelled" else "completed"


def public_state(state: State, cancel_wanted: bool) -> PublicState:
    """The state as clients see it."""
    return "cancelling" if state == "running" and cancel_wanted else state
