"""In which order models are asked, and when again: from failures and the time to the next step. Pure.

Nobody waits while somebody has not been asked yet, other providers before other models of one that failed. Once all
have failed, those that may do better later are asked again, each after a backoff with full jitter or what it said
itself (`retry_after_s`), whichever is later; what does not fit into the time left is not waited for. https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from tokenrelay.protocol.models.catalogue import Choice
from tokenrelay.workers.providers.base import ProviderError

BASE_S: Final = 0.5
CAP_S: Final = 8.0
"""The backoff is drawn from 0 to BASE_S, doubled at each failure of the same model, up to CAP_S."""


class Limits(msgspec.Struct, frozen=True):
    """`attempts` calls, and `total_s` seconds until the first piece of one, waits included."""

    attempts: int
    total_s: float


class _Candidate:
    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        self.failures = 0
        self.ready_at = 0.0
        self.is_out = False  # asking it again in this generation is of no use


class FallbackPolicy:
    """The candidates of one generation, best first. Times are seconds of one clock; see `begin`."""

    def __init__(self, choices: Sequence[Choice], limits: Limits) -> None:
        self._candidates = [_Candidate(choice) for choice in choices]
        self._limits = limits
        self._left = 0
        self._until = 0.0

    def __repr__(self) -> str:
        able = sum(not candidate.is_out for candidate in self._candidates)
        return f"<FallbackPolicy {able} of {len(self._candidates)} able | {self._left} attempts left>"

    def begin(self, now: float, first: Choice | None = None) -> None:
        """A round begins, with its own limits. Whoever answered the round before (`first`) is asked before others."""
        self._left = self._limits.attempts
        self._until = now + self._limits.total_s
        for candidate in self._candidates:
            candidate.failures, candidate.ready_at = 0, 0.0
        self._candidates.sort(key=lambda candidate: candidate.choice is not first)

    def extend(self, seconds: float) -> None:
        """A model was seen at work for so long before it failed: that is no time in which nobody began to answer."""
        self._until += seconds

    def left_s(self, now: float) -> float:
        return max(0.0, self._until - now)

    def next(self, now: float, is_resting: Callable[[Choice], bool]) -> Choice | float | None:
        """Whom to ask now; or how many seconds to wait first; or None: give up. Nobody that rests is ever named."""
        if not self._left or now >= self._until:
            return None
        able = [each for each in self._candidates if not each.is_out and not is_resting(each.choice)]
        ready = [each for each in able if each.ready_at <= now]
        if ready:
            return min(ready, key=self._order).choice  # of equals the best
        soonest = min((candidate.ready_at for candidate in able), default=self._until)
        return soonest - now if soonest < self._until else None

    def _order(self, candidate: _Candidate) -> tuple[int, int]:
        """Models of one provider often fail together: those of a provider that has not failed yet come first."""
        source = candidate.choice.model.source
        siblings = (other.failures for other in self._candidates if other.choice.model.source == source)
        return candidate.failures, sum(siblings)

    def failed(self, choice: Choice, error: ProviderError, now: float, jitter: float) -> None:
        """It was asked and failed before its first piece. `jitter` is drawn from 0 to 1."""
        self._left -= 1
        for candidate in self._candidates:
            if candidate.choice is choice:
                candidate.failures += 1
                backoff_s = jitter * min(CAP_S, BASE_S * 2 ** (candidate.failures - 1))
                candidate.ready_at = now + max(backoff_s, error.retry_after_s or 0.0)
            candidate.is_out = candidate.is_out or _is_out(candidate.choice, choice, error)


def _is_out(other: Choice, failed: Choice, error: ProviderError) -> bool:
    """Whether `error` of one speaks against another (or against itself) for good."""
    match error.blame:
        case "request":
            return True
        case "context_window":
            room, most = other.model.context, failed.model.context
            return other is failed or (room is not None and most is not None and room <= most)
        case "key":
            return other.model.source == failed.model.source
        case "model":
            return other is failed
        case _:
            # It does on every run what its name says.
            return other is failed and failed.model.dialect == "scripted"
