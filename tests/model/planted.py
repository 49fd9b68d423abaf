"""Whether the machine finds a mistake that was planted in a script."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import FlakyFailure, HypothesisException
from hypothesis.stateful import run_state_machine_as_test

from tests.model.cluster_machine import ClusterMachine
from tests.model.faults import Fault
from tests.model.machine import Machine
from tests.model.world import World

SETTINGS: Final = settings(
    max_examples=300, phases=[Phase.generate], stateful_step_count=60, derandomize=True, database=None, deadline=None,
    suppress_health_check=list(HealthCheck), print_blob=False, report_multiple_bugs=False,
)  # fmt: skip
"""The same steps every time; nothing is made simpler once it is found, which takes long and is for who looks for it."""

MadeWorld: TypeAlias = Callable[[Fault | None], World]


def machine_on(world: World) -> type[Machine]:
    kind = ClusterMachine if world.names.is_cluster else Machine
    return type("On", (kind,), {"on": world})


def find_nothing(world: World) -> None:
    """Raises what the machine finds: scripts and model differ."""
    run_state_machine_as_test(machine_on(world), settings=settings(SETTINGS, max_examples=200))


def finds(make_world: MadeWorld, fault: Fault) -> bool:
    try:
        run_state_machine_as_test(machine_on(make_world(fault)), settings=SETTINGS)
    except FlakyFailure:
        return True  # found, and not found in the same way again
    except HypothesisException:
        raise  # the machine itself is at fault
    except Exception:
        return True
    return False
