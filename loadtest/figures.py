"""Reduces many measured values to a few figures: a bounded histogram, and the record of one run. Knows no clock."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from tokenrelay.protocol.wire.timing import PARTS

STEP: Final = 1.02
"""One bucket is 2 % wide: a percentile is off by 1 % at most, and a soak of days takes no more memory than a minute."""

SMALLEST: Final = 1e-3
QUANTITIES: Final = ("connect_ms", "ttft_ms", "gap_ms", "resume_ms", "completion_ms")
STAGES: Final = (*PARTS, "hops_ms")
"""Of the time to the first token, by the server's own clocks; see `protocol.timing`."""

COUNTS: Final = ("streams", "tokens", "lost", "repeated", "failed")


def percentile(values: list[float], share: float) -> float:
    """Nearest rank: the smallest value that `share` (0–1) of all are not above. Raises ValueError for none."""
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, math.ceil(len(values) * share) - 1)]


class Histogram:
    """Values above zero, in buckets that grow by STEP; the largest is kept exactly."""

    def __init__(self) -> None:
        self.buckets: Counter[int] = Counter()
        self.count = 0
        self.max = 0.0

    def __repr__(self) -> str:
        return f"<Histogram {self.summary()}>"

    def add(self, value: float) -> None:
        self.buckets[math.floor(math.log(max(value, SMALLEST) / SMALLEST) / _LOG)] += 1
        self.count += 1
        if value > self.max:
            self.max = value

    def merge(self, other: Histogram) -> None:
        self.buckets.update(other.buckets)
        self.count += other.count
        self.max = max(self.max, other.max)

    def percentile(self, share: float) -> float:
        """The middle of the bucket where it falls, never above the largest value; 0 when there are none."""
        rank, seen = max(1, math.ceil(self.count * share)), 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= rank:
                return min(self.max, float(SMALLEST * STEP ** (bucket + 0.5)))
        return 0.0

    def summary(self) -> dict[str, float]:
        shares = {f"p{share}": round(self.percentile(share / 100), 3) for share in (50, 95, 99)}
        return {**shares, "max": round(self.max, 3), "count": self.count}

    def to_object(self) -> dict[str, Any]:
        return {"buckets": dict(self.buckets), "count": self.count, "max": self.max}

    @classmethod
    def from_object(cls, value: Mapping[str, Any]) -> Histogram:
        made = cls()
        made.buckets.update({int(bucket): number for bucket, number in value["buckets"].items()})
        made.count, made.max = value["count"], value["max"]
        return made


_LOG: Final = math.log(STEP)


class Record:
    """What one run measured. Several generators' records merge into one."""

    def __init__(self) -> None:
        self.quantities = {name: Histogram() for name in QUANTITIES}
        self.stages = {name: Histogram() for name in STAGES}
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()  # by sentence; bounded, see `fail`
        self.ttft_by_second: dict[int, Histogram] = {}
        self.ttft_by_open: dict[int, Histogram] = {}  # by how many streams were open, in powers of two
        self.open_by_second: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<Record {self.counts['streams']} streams | {self.trouble} troubles>"

    @property
    def trouble(self) -> int:
        return self.counts["lost"] + self.counts["repeated"] + self.counts["failed"]

    def fail(self, sentence: str) -> None:
        self.counts["failed"] += 1
        self.note(sentence)

    def note(self, sentence: str) -> None:
        self.errors[sentence if sentence in self.errors or len(self.errors) < 100 else "other"] += 1

    def first_token(self, second: int, open_streams: int, ttft_ms: float) -> None:
        self.quantities["ttft_ms"].add(ttft_ms)
        self.ttft_by_second.setdefault(second, Histogram()).add(ttft_ms)
        self.ttft_by_open.setdefault(1 << max(0, open_streams - 1).bit_length(), Histogram()).add(ttft_ms)

    def split(self, timing: Mapping[str, float]) -> None:
        """The completion's `timing` of one stream."""
        for name in STAGES:
            if name in timing:
                self.stages[name].add(timing[name])

    def summary(self) -> dict[str, Any]:
        """The shape that `--json` writes."""
        return {
            **{name: self.quantities[name].summary() for name in QUANTITIES},
            "stages": {name: histogram.summary() for name, histogram in self.stages.items()},
            **{name: self.counts[name] for name in COUNTS},
            "errors": dict(self.errors.most_common()),
        }

    def merge(self, other: Record) -> None:
        for name in QUANTITIES:
            self.quantities[name].merge(other.quantities[name])
        for name in STAGES:
            self.stages[name].merge(other.stages[name])
        self.counts.update(other.counts)
        self.errors.update(other.errors)
        for ours, theirs in ((self.ttft_by_second, other.ttft_by_second), (self.ttft_by_open, other.ttft_by_open)):
            for key, histogram in theirs.items():
                ours.setdefault(key, Histogram()).merge(histogram)
        for second, number in other.open_by_second.items():
            self.open_by_second[second] = self.open_by_second.get(second, 0) + number

    def to_object(self) -> dict[str, Any]:
        return {
            "quantities": {name: histogram.to_object() for name, histogram in self.quantities.items()},
            "stages": {name: histogram.to_object() for name, histogram in self.stages.items()},
            "counts": dict(self.counts),
            "errors": dict(self.errors),
            "by_second": {key: histogram.to_object() for key, histogram in self.ttft_by_second.items()},
            "by_open": {key: histogram.to_object() for key, histogram in self.ttft_by_open.items()},
            "open": dict(self.open_by_second),
        }

    @classmethod
    def from_object(cls, value: Mapping[str, Any]) -> Record:
        made = cls()
        made.quantities.update({key: Histogram.from_object(item) for key, item in value["quantities"].items()})
        made.stages.update({key: Histogram.from_object(item) for key, item in value["stages"].items()})
        made.counts.update(value["counts"])
        made.errors.update(value["errors"])
        made.ttft_by_second = {int(key): Histogram.from_object(item) for key, item in value["by_second"].items()}
        made.ttft_by_open = {int(key): Histogram.from_object(item) for key, item in value["by_open"].items()}
        made.open_by_second = {int(key): number for key, number in value["open"].items()}
        return made
