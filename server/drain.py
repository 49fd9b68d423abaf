"""Sending clients elsewhere so that a crowd comes back spread out: who goes when, and after how long it may be back.

Knows no connection and no transport; times are seconds of the caller's monotonic clock.
"""

from __future__ import annotations

import math
import random
from typing import Final

from tokenrelay.protocol.errors import TokenrelayError

COME_BACK_MS: Final = (100, 1_000)
"""A reader that is sent away is told to be back after a time between these. Short, for those who go are spread
already; well under the time after which a generation with `on_disconnect` takes its reader for gone
(workers/generation/generation.py)."""

WINDOW_SHARE: Final = 0.8
"""Of a drain's window: the rest is for those whose socket is slow."""

LATE_S: Final = 1.0
"""A call that was under way when the drain began becomes a reader after it: it has at most this long."""

AGE_SPREAD: Final = 0.2
"""Connections that were opened together, after a deploy say, must not end together."""


def refusal() -> TokenrelayError:
    """What a draining edge answers to whoever it does not serve any more."""
    return TokenrelayError("SERVICE_UNAVAILABLE", "this edge is being replaced; try again", retry_after=1)


def come_back_ms() -> int:
    """For `retry:` and `reconnect`, drawn anew for every connection."""
    return random.randint(*COME_BACK_MS)  # noqa: S311


def spread(number: int, window_s: float) -> list[float]:
    """When each of so many goes: one in each slot of the window, anywhere in its slot. In seconds from now.

    Independent draws would leave holes and clumps: of 1,000 in 100 slots the fullest would get about 20.
    """
    slot_s = window_s * WINDOW_SHARE / max(1, number)
    return [(index + random.random()) * slot_s for index in range(number)]  # noqa: S311


def late_s(left_s: float) -> float:
    """When one that came during the drain goes; `left_s` is what is left of the window."""
    return random.uniform(0, max(0.0, min(LATE_S, left_s)))  # noqa: S311


def end_of_age(max_connection_age_s: float, now: float) -> float:
    """When a connection that begins now has reached its greatest age; infinity for an age of 0."""
    if not max_connection_age_s:
        return math.inf
    return now + max_connection_age_s * random.uniform(1 - AGE_SPREAD, 1 + AGE_SPREAD)  # noqa: S311
