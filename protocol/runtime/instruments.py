"""What a process counts, as plain numbers: counters, gauges, histograms. Knows no exporter and no file.

Counting increments a list item, cheap enough for the path of a token; names, labels and text are used only at a
scrape. The words are those of Prometheus (https://prometheus.io/docs/concepts/metric_types/).
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Final, Literal, TypeAlias

import msgspec

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]
Labels: TypeAlias = tuple[str, ...]
State: TypeAlias = dict[str, list[tuple[Labels, list[float]]]]
"""All values of a process by metric. One number; of a histogram one a bucket, the last for what is above them all, and
the sum."""

LATENCY_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Bounds in seconds: from what one hop costs to the longest timeout of a model."""


class Row(msgspec.Struct, frozen=True):
    """One metric. `labels` by name, each with all values it can have; empty where they come from what an operator
    wrote (the catalogue, the tools). `joined` is how a gauge of several processes is one."""

    name: str
    kind: Kind
    help: str
    labels: Mapping[str, Labels]
    bounds: tuple[float, ...] = ()
    joined: Literal["sum", "max"] = "sum"


class Series:
    """One metric with one set of label values. `values` as in `State`."""

    __slots__ = ("_bounds", "values")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.values: list[float] = [0.0] * (len(bounds) + 2 if bounds else 1)

    def inc(self, by: float = 1) -> None:
        self.values[0] += by

    def dec(self, by: float = 1) -> None:
        self.values[0] -= by

    def set(self, value: float) -> None:
        self.values[0] = value

    def observe(self, value: float) -> None:
        """Of a histogram: one more at this value."""
        values = self.values
        values[bisect_left(self._bounds, value)] += 1
        values[-1] += value


class Instrument:
    """One metric of one process. Without labels it is its only series."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self._series: dict[Labels, Series] = {}
        if all(row.labels.values()):  # a counter that nobody has touched is 0, not absent
            for values in itertools.product(*row.labels.values()):
                self.labels(*values)

    def __repr__(self) -> str:
        return f"<Instrument {self.row.name} | {len(self._series)} series>"

    def labels(self, *values: str) -> Series:
        """The series with these label values, in the row's order."""
        series = self._series.get(values)
        if series is None:
            if len(values) != len(self.row.labels):
                raise ValueError(f"{self.row.name} has the labels {tuple(self.row.labels)}, got {values}")
            series = self._series[values] = Series(self.row.bounds)
        return series

    def inc(self, by: float = 1) -> None:
        self._series[()].values[0] += by

    def set(self, value: float) -> None:
        self.labels().values[0] = value

    def observe(self, value: float) -> None:
        self._series[()].observe(value)

    def clear(self) -> None:
        """Forget every series: a gauge that is about to be set anew."""
        self._series.clear()

    def read(self) -> list[tuple[Labels, list[float]]]:
        return [(labels, list(series.values)) for labels, series in self._series.items()]


class Instruments:
    """All metrics of one process. A subclass makes them in its `__init__`."""

    def __init__(self) -> None:
        self._all: list[Instrument] = []

    @property
    def rows(self) -> list[Row]:
        return [instrument.row for instrument in self._all]

    def counter(self, name: str, text: str, **labels: Labels) -> Instrument:
        return self._make(Row(name, "counter", text, labels))

    def gauge(self, name: str, text: str, joined: Literal["sum", "max"] = "sum", **labels: Labels) -> Instrument:
        return self._make(Row(name, "gauge", text, labels, joined=joined))

    def histogram(self, name: str, text: str, bounds: tuple[float, ...] = LATENCY_S, **labels: Labels) -> Instrument:
        return self._make(Row(name, "histogram", text, labels, bounds))

    def _make(self, row: Row) -> Instrument:
        instrument = Instrument(row)
        self._all.append(instrument)
        return instrument

    def read(self) -> State:
        return {instrument.row.name: instrument.read() for instrument in self._all}

    def carry_on(self, state: State) -> None:
        """Add what a process before this one had counted: a counter only grows. Gauges were that process's own."""
        for instrument in self._all:
            if instrument.row.kind != "gauge":
                for labels, values in state.get(instrument.row.name, ()):
                    series = instrument.labels(*labels)
                    if len(values) == len(series.values):
                        series.values = [ours + theirs for ours, theirs in zip(series.values, values, strict=True)]


def pack(state: State) -> bytes:
    return msgspec.msgpack.encode(state)


def unpack(raw: bytes) -> State:
    """Raises msgspec.DecodeError."""
    return msgspec.msgpack.decode(raw, type=State)


def joined(rows: Iterable[Row], states: Iterable[tuple[State, bool]]) -> State:
    """Several processes as one; beside each state whether its process lives: a dead one's counts stay, gauges go."""
    everybody = list(states)
    whole: State = {}
    for row in rows:
        found: dict[Labels, list[float]] = {}
        for state, is_alive in everybody:
            if row.kind == "gauge" and not is_alive:
                continue
            for labels, values in state.get(row.name, ()):
                known = found.get(labels)
                if known is None or len(known) != len(values):
                    found[labels] = list(values)
                elif row.joined == "max":
                    found[labels] = [max(pair) for pair in zip(known, values, strict=True)]
                else:
                    found[labels] = [sum(pair) for pair in zip(known, values, strict=True)]
        whole[row.name] = list(found.items())
    return whole
