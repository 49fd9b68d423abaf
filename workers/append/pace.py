"""How far apart the group commit's trips begin, by how much is being written. Pure.

A trip costs worker, Redis and edge a wake-up and a system call each, whatever it carries. So the busier the worker is,
the longer a trip waits for company: 2 ms up to 200 entries a second, 10 ms from 1,000 on. An eye notices neither. A
first token waits for no pause, and nothing does where the last trip began longer ago than that.
"""

from __future__ import annotations

from typing import Final

LEAST_S: Final = 0.002
MOST_S: Final = 0.010
PAUSE_A_RATE: Final = 10e-6
"""Seconds of pause for each entry a second."""

MEMORY_S: Final = 0.25
"""About how far back the rate looks."""


class Pace:
    """`pause_s` follows what `trip` is told."""

    __slots__ = ("_at", "_rate", "pause_s")

    def __init__(self) -> None:
        self.pause_s = LEAST_S
        self._rate = 0.0  # entries a second
        self._at = 0.0  # when the last trip began

    def __repr__(self) -> str:
        return f"<Pace {self.pause_s * 1000:.1f} ms | {self._rate:.0f} entries/s>"

    def trip(self, now: float, count: int, *, is_whole: bool) -> None:
        """A trip begins with so many entries. Not whole: more is waiting than it could take, so that nothing is gained
        by waiting on."""
        passed = max(now - self._at, 1e-6)
        self._at = now
        self._rate += (count / passed - self._rate) * min(passed / MEMORY_S, 1.0)
        self.pause_s = min(max(self._rate * PAUSE_A_RATE, LEAST_S), MOST_S) if is_whole else LEAST_S
