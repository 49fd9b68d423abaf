"""`make model`: is every mistake found that is planted in the scripts, on one server and on a cluster? Some minutes."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from tests.cluster.servers import Servers
from tests.fleet import Fleet
from tests.model.cluster_world import ClusterWorld
from tests.model.faults import FAULTS, OF_CLUSTERS, Fault
from tests.model.planted import MadeWorld, find_nothing, finds
from tests.model.world import World
from tokenrelay.protocol.store import scripts

IN_CLUSTER = tuple(each for each in (*scripts.ALL, scripts.APPEND_MORE) if each is not scripts.START)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("words", nargs="*", help="only mistakes whose line has all of these in it")
    words = parser.parse_args().words
    with Fleet(edges=0, workers=0) as fleet, fleet.redis() as redis:
        missed = plant(lambda fault: World(redis, fault), FAULTS, words)
    in_cluster = (*IN_CLUSTER, *scripts.IN_CLUSTER)
    of_both = [each for each in FAULTS if not each.is_one_servers and any(map(each.is_in, in_cluster))]
    with Servers(3) as servers:
        missed += plant(lambda fault: ClusterWorld(servers, fault), [*of_both, *OF_CLUSTERS], words)
    return 1 if missed else 0


def plant(make_world: MadeWorld, faults: Sequence[Fault], words: list[str]) -> int:
    missed, world = 0, make_world(None)
    chosen = [fault for fault in faults if all(word in str(fault) for word in words)]
    find_nothing(world)  # where scripts and model differ anyway, every mistake would be found
    for fault in chosen:
        begin = time.monotonic()
        is_found = finds(make_world, fault)
        missed += not is_found
        print(f"{'found ' if is_found else 'MISSED'} {time.monotonic() - begin:5.1f} s  {fault}", flush=True)
    print(f"{world}: {len(chosen)} mistakes planted, {missed} missed\n", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(main())
