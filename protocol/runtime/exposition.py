"""Metrics in Prometheus' format, of this process and of its siblings on the same port. Knows no metric by name.

Any of several processes may be scraped, and answers for all: each writes its counts to a file once a second, and
holds a lock for as long as it lives. A process that replaces a dead one continues its counts: a counter never falls.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from tokenrelay.protocol.runtime import instruments
from tokenrelay.protocol.runtime.instruments import Instruments, Row, State

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
EVERY_S: Final = 1.0


class Slot:
    """The place of one of several processes: number `index` of those that share `folder`."""

    def __init__(self, folder: Path, index: int) -> None:
        self._folder = folder
        self._file = folder / f"{index}.counts"
        # Held for life. The file descriptor is closed on exec: a child of ours does not keep the place alive.
        self._lock = (folder / f"{index}.lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # a sibling that looks may have it for a moment

    def before(self) -> State:
        """What the process that had this place before had counted."""
        return _read(self._file)

    def write(self, state: State) -> None:
        """Whole or not at all: a reader never sees half of it."""
        new = self._file.with_suffix(".new")
        new.write_bytes(instruments.pack(state))
        new.replace(self._file)

    def others(self) -> Iterator[tuple[State, bool]]:
        """Of every other place its counts, at most `EVERY_S` old, and whether its process lives."""
        for file in sorted(self._folder.glob("*.counts")):
            if file != self._file:
                yield _read(file), _is_held(file.with_suffix(".lock"))


def _read(file: Path) -> State:
    try:
        return instruments.unpack(file.read_bytes())
    except (OSError, msgspec.DecodeError):
        return {}


def _is_held(file: Path) -> bool:
    try:
        with file.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


class Exposition:
    """`refresh` sets the gauges that are only looked at when somebody asks. `slot` is None for a process alone."""

    def __init__(self, counts: Instruments, refresh: Callable[[], None], slot: Slot | None) -> None:
        self._counts = counts
        self._refresh = refresh
        self._slot = slot
        if slot is not None:
            counts.carry_on(slot.before())

    def text(self) -> bytes:
        """The text format (https://prometheus.io/docs/instrumenting/exposition_formats/)."""
        self._refresh()
        state = self._counts.read()
        if self._slot is not None:
            state = instruments.joined(self._counts.rows, [(state, True), *self._slot.others()])
        registry = CollectorRegistry()
        registry.register(_Families(self._counts.rows, state))
        return generate_latest(registry)

    async def run(self) -> None:
        """Owned by the process; ends only by being cancelled. Without siblings there is nothing to do."""
        while self._slot is not None:
            self.write()
            await asyncio.sleep(EVERY_S)
        await asyncio.Event().wait()

    def write(self) -> None:
        """For the siblings. A full disk costs them our counts, not us our work."""
        if self._slot is not None:
            self._refresh()
            with contextlib.suppress(OSError):
                self._slot.write(self._counts.read())


class _Families(Collector):
    def __init__(self, rows: list[Row], state: State) -> None:
        self._rows = rows
        self._state = state

    def collect(self) -> Iterator[Metric]:
        for row in self._rows:
            series = self._state[row.name]
            if row.kind == "histogram":
                histogram = HistogramMetricFamily(row.name, row.help, labels=tuple(row.labels))
                for labels, values in series:
                    histogram.add_metric(labels, _buckets(row, values), values[-1])
                yield histogram
            else:
                kind = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
                family = kind(row.name, row.help, labels=tuple(row.labels))
                for labels, values in series:
                    family.add_metric(labels, values[0])
                yield family


def _buckets(row: Row, values: list[float]) -> list[tuple[str, float]]:
    """Prometheus counts what is at most the bound, those below included."""
    total, buckets = 0.0, []
    for bound, number in zip((*map(str, row.bounds), "+Inf"), values, strict=False):
        total += number
        buckets.append((bound, total))
    return buckets
