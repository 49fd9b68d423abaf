"""The scripts do what the model says, whatever happens in whatever order; and the machine would notice if not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis.stateful import run_state_machine_as_test

from tests.fleet import Fleet
from tests.model.faults import FAULTS, Fault
from tests.model.machine import machine_on
from tests.model.planted import SETTINGS, finds
from tests.model.world import World
from tokenrelay.protocol.store import scripts

SCRIPTS = (*scripts.ALL, scripts.APPEND_MORE)


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet(edges=0, workers=0) as started:
        yield started


@pytest.mark.timeout(300)
def test_the_scripts_do_what_the_model_says(fleet: Fleet) -> None:
    run_state_machine_as_test(machine_on(World(fleet.redis())), settings=SETTINGS)


@pytest.mark.parametrize("name", [script.name for script in SCRIPTS])
@pytest.mark.timeout(300)
def test_the_machine_finds_a_mistake_in(fleet: Fleet, name: str) -> None:
    """One of each script; all of them: `make model`."""
    assert finds(fleet.redis(), next(fault for fault in FAULTS if fault.script == name))


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_what_is_changed_stands_in_the_script(fault: Fault) -> None:
    assert any(fault.is_in(script) for script in SCRIPTS)
