"""How late an event loop runs what is due, and whether that lasts. Knows no stream.

A loop that has more to do than a core can carry is late for everything, first tokens most of all. One long computation
makes it late once, which is no reason to refuse anybody.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

LOOK_S: Final = 0.1
LASTING_S: Final = 2.0
"""Late for so long is overloaded."""


class Lag:
    """`seconds` is the last lateness seen; `is_lasting` once all that was seen for `LASTING_S` was above the bound. A
    process that stood still, and goes on, is not overloaded for that."""

    def __init__(self, bound_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._bound_s = bound_s  # 0: never overloaded
        self._clock = clock
        self._since: float | None = None  # None while it is in time
        self.seconds = 0.0

    def __repr__(self) -> str:
        return (
            f"<Lag {self.seconds * 1000:.0f} of {self._bound_s * 1000:.0f} ms{' lasting' if self.is_lasting else ''}>"
        )

    @property
    def is_lasting(self) -> bool:
        return self._since is not None and self._clock() - self._since >= LASTING_S

    def saw(self, late_s: float) -> None:
        """Something ran so many seconds after it was due."""
        self.seconds = max(late_s, 0.0)
        if not self._bound_s or self.seconds <= self._bound_s:
            self._since = None
        elif self._since is None:
            self._since = self._clock()

    async def watch(self) -> None:
        """Owned by the process; ends only by being cancelled."""
        while True:
            due = self._clock() + LOOK_S
            await asyncio.sleep(LOOK_S)
            self.saw(self._clock() - due)
