"""`make model`: is every mistake found that is planted in the scripts, one after another? Some minutes."""

from __future__ import annotations

import sys
import time

from hypothesis.stateful import run_state_machine_as_test

from tests.fleet import Fleet
from tests.model.faults import FAULTS
from tests.model.machine import machine_on
from tests.model.planted import SETTINGS, finds
from tests.model.world import World


def main() -> int:
    missed = 0
    with Fleet(edges=0, workers=0) as fleet, fleet.redis() as redis:
        run_state_machine_as_test(machine_on(World(redis)), settings=SETTINGS)  # without one nothing is found
        for fault in (each for each in FAULTS if all(word in str(each) for word in sys.argv[1:])):
            begin = time.monotonic()
            is_found = finds(redis, fault)
            missed += not is_found
            print(f"{'found ' if is_found else 'MISSED'} {time.monotonic() - begin:5.1f} s  {fault}", flush=True)
    print(f"{len(FAULTS)} mistakes planted, {missed} missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
