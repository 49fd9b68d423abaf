"""The states of a generation: one table, and scripts that keep to it."""

from __future__ import annotations

import re
from typing import Any, get_args

import msgspec
import pytest

from tests.protocol.cases import COMPLETION, FAILURE
from tokenrelay.protocol import events, lifecycle
from tokenrelay.protocol.events import FinishReason, Terminal
from tokenrelay.protocol.lifecycle import ENDED, TRANSITIONS, PublicState, State
from tokenrelay.protocol.store import scripts
from tokenrelay.protocol.store.scripts import Script

STATES = frozenset(get_args(State))


def test_every_state_is_reached_or_the_first() -> None:
    assert {after for _, _, after in TRANSITIONS} | {"queued"} == STATES


def test_nothing_leaves_an_end() -> None:
    assert not {before for before, _, _ in TRANSITIONS} & ENDED


def test_from_every_state_an_end_can_be_reached() -> None:
    for state in STATES - ENDED:
        assert any(before == state and after in ENDED for before, _, after in TRANSITIONS)


def test_no_two_rows_say_different_things() -> None:
    assert len({(before, what) for before, what, _ in TRANSITIONS}) == len(TRANSITIONS)


def with_reason(reason: FinishReason) -> Terminal:
    return msgspec.structs.replace(COMPLETION, finish_reason=reason)


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (FAILURE, "failed"),
        (with_reason("cancelled"), "cancelled"),
        *((with_reason(reason), "completed") for reason in get_args(events.FinishReason) if reason != "cancelled"),
    ],
)
def test_an_end_leaves_its_state(end: Terminal, state: str) -> None:
    assert lifecycle.state_after(end) == state
    assert ("running", state) in {(before, after) for before, _, after in TRANSITIONS}


@pytest.mark.parametrize("state", sorted(STATES))
def test_clients_see_cancelling_only_while_it_runs(state: Any) -> None:
    assert lifecycle.public_state(state, cancel_wanted=False) == state
    assert lifecycle.public_state(state, cancel_wanted=True) == ("cancelling" if state == "running" else state)


def test_public_states_are_the_states_and_cancelling() -> None:
    assert set(get_args(PublicState)) == STATES | {"cancelling"}


def words(pattern: str, script: Script) -> set[str]:
    return set(re.findall(pattern, script.text))


@pytest.mark.parametrize("script", scripts.ALL, ids=lambda script: script.name)
def test_a_script_mentions_no_state_outside_the_table(script: Script) -> None:
    assert words(r"'HSET', \w[^)]*?'state', '(\w+)'", script) <= STATES - ENDED
    assert words(r"finish\([^)]*?, '(\w+)', ", script) <= ENDED
    assert words(r"[~=]= '(\w+)'", script) <= STATES  # words are compared with states only


def test_together_the_scripts_make_every_step_that_is_theirs() -> None:
    """Were the patterns above to match nothing, this would fail."""
    made = set[str]()
    for script in scripts.ALL:
        made |= words(r"'HSET', \w[^)]*?'state', '(\w+)'", script) | words(r"finish\([^)]*?, '(\w+)', ", script)
    assert made == STATES - {"completed"}  # that one comes from a worker, as an argument
    assert "'cancelling'" in scripts.CANCEL.text
