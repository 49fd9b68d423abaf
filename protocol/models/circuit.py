"""The recent health of each model: time to first token, error rate, circuit. Pure: the time is passed in, in seconds.

             failures                    open_s over
closed ─────────────────▶ open ─────────────────────▶ half_open
  ▲                         ▲                           │   │
  │                         └── the trial fails, twice as long
  └──────────────────────────────────── the trial succeeds ─┘

All workers share one record per model (`keys.HEALTH`); each adds what it saw and writes the sum, if nobody has written
since it read (`scripts.SHARE`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final, Literal, TypeAlias

import msgspec

from tokenrelay.protocol.models.routing_rules import HealthRules

Circuit: TypeAlias = Literal["closed", "open", "half_open"]

KEPT_MS: Final = 3_600_000
"""Nobody has been asked for this long: then it is as if nothing were known."""


class Vitals(msgspec.Struct, frozen=True):
    """What a choice looks at. `ttft_ms` is None before the first answer."""

    ttft_ms: float | None = None
    error_rate: float = 0.0
    circuit: Circuit = "closed"


class Outcome(msgspec.Struct, frozen=True):
    """One call, as its worker saw it. `ttft_ms` is from the call to its first piece; None: it failed."""

    at: float
    ttft_ms: float | None = None


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One model's past. Times are seconds since the Unix epoch by Redis's clock; 0 means never."""

    ttft_ms: float | None = None
    error_rate: float = 0.0
    at: float = 0.0  # of the newest call, for the fading of `error_rate`
    calls: int = 0
    failures_in_a_row: int = 0
    opened_at: float = 0.0
    open_for_s: float = 0.0  # 0 while closed

    @property
    def is_finite(self) -> bool:
        """Numbers to reckon with: neither an infinity nor NaN, which JSON and `round` do not know."""
        return all(map(math.isfinite, (self.ttft_ms or 0.0, self.error_rate, self.at, self.opened_at, self.open_for_s)))

    def rest_s(self, now: float) -> float:
        """How long it is still to be left alone."""
        return max(0.0, self.opened_at + self.open_for_s - now) if self.open_for_s else 0.0

    def circuit(self, now: float) -> Circuit:
        """`half_open`: one call of all workers may try; who holds `keys.trial` makes it."""
        if not self.open_for_s:
            return "closed"
        return "open" if self.rest_s(now) > 0 else "half_open"

    def vitals(self, rules: HealthRules, now: float) -> Vitals:
        return Vitals(self.ttft_ms, self._faded(rules, now), self.circuit(now))

    def _faded(self, rules: HealthRules, now: float) -> float:
        """The error rate halves with time: what nobody asks would otherwise be bad for ever."""
        if not self.error_rate:
            return 0.0
        faded: float = self.error_rate * 0.5 ** (max(0.0, now - self.at) / rules.half_life_s)
        return faded

    def after(self, rules: HealthRules, outcomes: Iterable[Outcome]) -> Record:
        """The record once these calls are in it, in the order they ended."""
        record = self
        for outcome in outcomes:
            if outcome.ttft_ms is None:
                record = record.failed(rules, outcome.at)
            else:
                record = record.succeeded(rules, outcome.at, outcome.ttft_ms)
        return record

    def succeeded(self, rules: HealthRules, now: float, ttft_ms: float) -> Record:
        """The first piece has come, `ttft_ms` after it was asked for. Closes the circuit."""
        known = self.ttft_ms
        return Record(
            ttft_ms=ttft_ms if known is None else known + rules.smoothing * (ttft_ms - known),
            error_rate=self._faded(rules, now) * (1 - rules.smoothing),
            at=max(now, self.at),
            calls=self.calls + 1,
        )

    def failed(self, rules: HealthRules, now: float) -> Record:
        """An outage, a timeout, a refusal for rate: the provider's fault, not the request's."""
        rate = self._faded(rules, now)
        after = msgspec.structs.replace(
            self,
            error_rate=rate + rules.smoothing * (1 - rate),
            at=max(now, self.at),
            calls=self.calls + 1,
            failures_in_a_row=self.failures_in_a_row + 1,
        )
        if self.open_for_s:
            if now - self.opened_at < self.open_for_s:
                return after  # a call from before it opened comes back late: says nothing new
            return msgspec.structs.replace(after, opened_at=now, open_for_s=min(self.open_for_s * 2, rules.max_open_s))
        is_often = after.calls >= rules.open_after_calls and after.error_rate >= rules.open_error_rate
        if after.failures_in_a_row >= rules.open_after_failures or is_often:
            return msgspec.structs.replace(after, opened_at=now, open_for_s=rules.open_s)
        return after


def pack(record: Record) -> bytes:
    """The same bytes for the same record: a write is compared with what was read."""
    return msgspec.msgpack.encode(record)


def unpack_all(raws: Mapping[bytes, bytes]) -> dict[str, Record]:
    """The hash of all records, by model. What cannot be read (another version's) is as if nothing were known."""
    records = {}
    for name, raw in raws.items():
        try:
            record = msgspec.msgpack.decode(raw, type=Record)
            if record.is_finite:
                records[name.decode()] = record
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
    return records
