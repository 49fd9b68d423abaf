"""How each model has done lately: time to first token, error rate, circuit. Pure: the time is passed in, in seconds.

             failures                    open_s over
closed ─────────────────▶ open ─────────────────────▶ half-open
  ▲                         ▲                           │   │
  │                         └── the probe fails, rests twice as long
  └──────────────────────────────────── the probe succeeds ─┘
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import msgspec

from protocol.rules import HealthRules

Circuit: TypeAlias = Literal["closed", "open", "half-open"]

PROBE_S: Final = 30.0
"""A probe that has not come back by then is lost; another may go."""


class Vitals(msgspec.Struct, frozen=True):
    """What a choice looks at. `ttft_ms` is None before the first answer."""

    ttft_ms: float | None = None
    error_rate: float = 0.0
    circuit: Circuit = "closed"


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One model's past. Times are seconds of one clock, whichever the caller uses; 0 means never."""

    ttft_ms: float | None = None
    error_rate: float = 0.0
    at: float = 0.0  # of the newest call, for the fading of `error_rate`
    calls: int = 0
    failures_in_a_row: int = 0
    opened_at: float = 0.0
    open_for_s: float = 0.0  # 0 while closed
    probed_at: float = 0.0  # when the probe under way began; 0: none is

    def circuit(self, now: float) -> Circuit:
        """`half-open`: one call may try. While it does, others see `open`."""
        if not self.open_for_s:
            return "closed"
        if now - self.opened_at < self.open_for_s or (self.probed_at and now - self.probed_at < PROBE_S):
            return "open"
        return "half-open"

    def vitals(self, rules: HealthRules, now: float) -> Vitals:
        return Vitals(self.ttft_ms, self._faded(rules, now), self.circuit(now))

    def _faded(self, rules: HealthRules, now: float) -> float:
        """The error rate halves with time: what nobody asks would otherwise be bad for ever."""
        if not self.error_rate:
            return 0.0
        faded: float = self.error_rate * 0.5 ** (max(0.0, now - self.at) / rules.half_life_s)
        return faded

    def probing(self, now: float) -> Record:
        """A call goes out while half-open: it is the probe."""
        return msgspec.structs.replace(self, probed_at=now) if self.circuit(now) == "half-open" else self

    def succeeded(self, rules: HealthRules, now: float, ttft_ms: float) -> Record:
        """The first token has come, `ttft_ms` after it was asked for. Closes the circuit."""
        known = self.ttft_ms
        return Record(
            ttft_ms=ttft_ms if known is None else known + rules.smoothing * (ttft_ms - known),
            error_rate=self._faded(rules, now) * (1 - rules.smoothing),
            at=now,
            calls=self.calls + 1,
        )

    def failed(self, rules: HealthRules, now: float) -> Record:
        """An outage, a timeout, a refusal for rate: the maker's fault, not the request's."""
        rate = self._faded(rules, now)
        after = msgspec.structs.replace(
            self,
            error_rate=rate + rules.smoothing * (1 - rate),
            at=now,
            calls=self.calls + 1,
            failures_in_a_row=self.failures_in_a_row + 1,
            probed_at=0.0,
        )
        if self.open_for_s:
            if now - self.opened_at < self.open_for_s:
                return after  # a call from before it opened comes back late: says nothing new
            return msgspec.structs.replace(after, opened_at=now, open_for_s=min(self.open_for_s * 2, rules.max_open_s))
        is_often = after.calls >= rules.open_after_calls and after.error_rate >= rules.open_error_rate
        if after.failures_in_a_row >= rules.open_after_failures or is_often:
            return msgspec.structs.replace(after, opened_at=now, open_for_s=rules.open_s)
        return after


class Health:
    """The records of all models, by the id of their row."""

    def __init__(self, rules: HealthRules, records: Mapping[str, Record] | None = None) -> None:
        self._rules = rules
        self.records: dict[str, Record] = dict(records or {})

    def __repr__(self) -> str:
        resting = sum(bool(record.open_for_s) for record in self.records.values())
        return f"<Health {len(self.records)} models | {resting} resting>"

    def asked(self, model: str, now: float) -> None:
        """A call goes out."""
        self.records[model] = self._of(model).probing(now)

    def succeeded(self, model: str, now: float, ttft_ms: float) -> None:
        self.records[model] = self._of(model).succeeded(self._rules, now, ttft_ms)

    def failed(self, model: str, now: float) -> None:
        self.records[model] = self._of(model).failed(self._rules, now)

    def vitals(self, now: float) -> dict[str, Vitals]:
        """Of every model that was ever asked."""
        return {model: record.vitals(self._rules, now) for model, record in self.records.items()}

    def _of(self, model: str) -> Record:
        return self.records.get(model) or Record()
