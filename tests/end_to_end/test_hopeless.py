"""A worker one of whose vital tasks can never work ends with a code that says so; one that Redis leaves alone stays."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.fleet import Fleet, until
from tokenrelay.protocol.runtime.launcher import clean_environment

BROKEN = """
import tokenrelay.protocol.runtime.supervisor as supervisor
supervisor.HOPELESS_S = 1.0
import tokenrelay.workers.dispatch.{module} as module

async def broken(*_):
    raise KeyError("a fault that no restart of the task removes")

module.{name} = broken
"""


def environment(folder: Path, broken: str) -> dict[str, str]:
    (folder / "sitecustomize.py").write_text(broken)
    return {"PYTHONPATH": f"{folder}{os.pathsep}{clean_environment({}).get('PYTHONPATH', '')}".rstrip(os.pathsep)}


@pytest.mark.parametrize(("module", "name"), [("arq_worker", "LeaseWorker.main"), ("leases", "Leases.keep")])
def test_a_worker_whose_vital_task_can_never_work_ends_loudly(tmp_path: Path, module: str, name: str) -> None:
    with Fleet(edges=1, workers=0) as fleet:
        fleet.start_worker(**environment(tmp_path, BROKEN.format(module=module, name=name)))
        until(lambda: fleet.workers[0].poll() is not None, "it goes on")
        assert fleet.workers[0].returncode == 1
        assert '"task_given_up"' in fleet.said()


def test_a_redis_that_is_away_for_long_ends_no_worker(tmp_path: Path) -> None:
    patience = "import tokenrelay.protocol.runtime.supervisor as supervisor\nsupervisor.HOPELESS_S = 0.1\n"
    with Fleet(edges=1, workers=0) as fleet:
        fleet.start_worker(**environment(tmp_path, patience))
        fleet.wait_until_ready()
        fleet.signal_redis(signal.SIGSTOP)
        looked = "claim_failed" if fleet.servers is None else "homes_not_polled"
        until(lambda: '"renew_failed"' in fleet.said() and f'"{looked}"' in fleet.said(), "nothing is noticed")
        fleet.signal_redis(signal.SIGCONT)
        fleet.wait_until_ready()
        assert fleet.workers[0].poll() is None
