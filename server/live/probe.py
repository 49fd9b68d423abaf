"""Does the live feed bring what is published? A message to ourselves, sent and heard. Knows no stream."""

from __future__ import annotations

import math
import secrets
from typing import Final

from tokenrelay.protocol.store import keys, partitions

LOST_S: Final = 4.0
"""A probe that has not come back for this long means a live connection that is dead without saying so."""


class Probe:
    """Of one server, through a partition that it has. Times are seconds of the caller's monotonic clock."""

    def __init__(self, tag: str = partitions.ONE_SERVER) -> None:
        self.tag = tag
        self.name = keys.within(tag, keys.probe(secrets.token_hex(8))).encode()
        self.is_under_way = False  # one is being sent
        self.came_at = -math.inf  # when one last came back
        self._connected_at = -math.inf  # when the live connection was made; it gets as long to bring one back
        self._sent_at = -math.inf

    def connected(self, now: float) -> None:
        self._connected_at = now

    def sent(self, now: float) -> None:
        self._sent_at = now

    def came(self, now: float) -> float:
        """One is back; gives how long it took."""
        self.came_at = now
        return now - self._sent_at

    def is_lost(self, now: float) -> bool:
        return now - max(self.came_at, self._connected_at) > LOST_S
