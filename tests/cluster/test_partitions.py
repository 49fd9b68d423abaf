"""A process that was told another number of partitions than the others does not start, and says why."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.fleet import Fleet, until
from tokenrelay.loadtest.fleet import free_port
from tokenrelay.protocol.runtime.launcher import role_command

SAYS = "the cluster is used with 16 partitions by other processes, and this one was told 32"


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet(edges=1, workers=1, replicas=0) as fleet:
        yield fleet


@pytest.mark.parametrize("is_late", [False, True], ids=["cluster is there", "cluster comes later"])
@pytest.mark.parametrize("role", ["server", "workers"])
def test_it_does_not_start(fleet: Fleet, role: str, is_late: bool) -> None:
    options = ("--port", str(free_port())) if role == "server" else ()
    env = {**fleet.env, "TOKENRELAY_REDIS_PARTITIONS": "32"}
    if is_late:
        fleet.signal_redis(signal.SIGSTOP)
    try:
        process = subprocess.Popen(
            role_command(role, *options), env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if is_late:
            assert process.stdout is not None
            until(lambda: "cluster_unreachable" in process.stdout.readline(), "it is not noticed")
    finally:
        fleet.signal_redis(signal.SIGCONT)
    said, _ = process.communicate(timeout=90)
    assert process.returncode not in (0, None)
    assert SAYS in said
    assert fleet.edges[0].poll() is None
    assert fleet.workers[0].poll() is None
