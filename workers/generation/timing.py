"""Where the time to a generation's first token goes here, by this process's monotonic clock. Writes no event."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenrelay.protocol.wire import timing

if TYPE_CHECKING:
    from tokenrelay.workers.metrics import Metrics


class Timing:
    """One generation's; seconds. `taken_at` is when its claim came; it had waited `waited_s` then, by Redis's clock."""

    def __init__(self, metrics: Metrics, taken_at: float, waited_s: float) -> None:
        self._metrics = metrics
        self._taken_at = taken_at
        self._piece_at: float | None = None  # None until the first piece of the first round has come
        self._parts: dict[str, float] = {}
        self.is_open = True  # the first piece is not in the log yet
        self._set("queue", waited_s)

    def answered(self, opened_at: float, asked_at: float, now: float) -> None:
        """A round's first piece came; providers were asked from `opened_at` on, the one that answered at `asked_at`."""
        if self._piece_at is None:
            self._piece_at = now
            self._set("pickup", opened_at - self._taken_at)
            self._set("failed", asked_at - opened_at)
            self._set("provider", now - asked_at)

    def acked(self, now: float) -> None:
        """Redis has more of the log than it had."""
        if self._piece_at is not None:
            self.is_open = False
            self._set("append", now - self._piece_at)

    @property
    def ttft_s(self) -> float | None:
        """From asked to the first piece; None while there is none."""
        stages = ("queue", "pickup", "failed", "provider")
        return sum(self._parts[stage] for stage in stages) if self._piece_at is not None else None

    def fields(self) -> dict[str, float]:
        """As the completion event tells them: milliseconds."""
        return {f"{stage}_ms": timing.ms(seconds) for stage, seconds in self._parts.items()}

    def _set(self, stage: str, seconds: float) -> None:
        self._parts[stage] = seconds
        self._metrics.stages.labels(stage).observe(seconds)
