"""The scripts do what the model says, whatever happens in whatever order; and the machine would notice if not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.servers import Servers
from tests.fleet import Fleet, one_server
from tests.model.cluster_world import ClusterWorld
from tests.model.faults import FAULTS, OF_CLUSTERS, Fault
from tests.model.planted import find_nothing, finds
from tests.model.world import World
from tokenrelay.protocol.store import scripts

pytestmark = [pytest.mark.timeout(300), one_server("it has clusters of its own")]
SCRIPTS = (*scripts.ALL, scripts.APPEND_MORE)


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet(edges=0, workers=0) as started:
        yield started


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Servers(3) as started:
        yield started


def test_the_scripts_do_what_the_model_says(fleet: Fleet) -> None:
    find_nothing(World(fleet.redis()))


def test_they_do_it_on_a_cluster(servers: Servers) -> None:
    find_nothing(ClusterWorld(servers))


@pytest.mark.parametrize("name", [script.name for script in SCRIPTS])
def test_the_machine_finds_a_mistake_in(fleet: Fleet, name: str) -> None:
    """One of each script; all of them: `make model`."""
    redis = fleet.redis()
    assert finds(lambda fault: World(redis, fault), next(fault for fault in FAULTS if fault.script == name))


@pytest.mark.parametrize("name", [script.name for script in scripts.IN_CLUSTER])
def test_it_finds_one_on_a_cluster_in(servers: Servers, name: str) -> None:
    fault = next(fault for fault in (*OF_CLUSTERS, *FAULTS) if name.startswith(fault.script))
    assert finds(lambda fault: ClusterWorld(servers, fault), fault)


@pytest.mark.parametrize("fault", [*FAULTS, *OF_CLUSTERS], ids=str)
def test_what_is_changed_stands_in_the_script(fault: Fault) -> None:
    assert any(fault.is_in(script) for script in (*SCRIPTS, *scripts.IN_CLUSTER))
