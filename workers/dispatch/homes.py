"""Which partitions a worker looks after: it hears at once of what waits there. Pure.

Eight workers a partition, drawn by a hash of both (rendezvous hashing), so that one which comes or goes changes as
little as can be. Partitions that are neighbours share theirs, so that a worker writes to few servers. With up to eight
workers every partition is everybody's.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from tokenrelay.protocol.store import partitions

WORKERS: Final = 8
NEIGHBOURHOODS: Final = 64


def homes(worker: str, workers: Sequence[str], tags: Sequence[str]) -> tuple[str, ...]:
    """Those of `tags` that are this worker's."""
    if len(workers) <= WORKERS:
        return tuple(tags)
    drawn = {place for place in range(NEIGHBOURHOODS) if worker in _drawn(place, workers)}
    return tuple(tag for tag in tags if partitions.slot(tag) * NEIGHBOURHOODS // partitions.SLOTS in drawn)


def _drawn(place: int, workers: Sequence[str]) -> list[str]:
    return sorted(workers, key=lambda each: blake2b(f"{place} {each}".encode(), digest_size=8).digest())[:WORKERS]
