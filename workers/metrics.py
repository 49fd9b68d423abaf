"""What a worker counts, under the names operators see, and the port where Prometheus reads it. Knows no text.

Nothing is counted for a token: what happens that often is read from plain numbers when Prometheus asks. Labels hold
rows of the catalogue and words of ours, never what a caller typed, so that their number is bounded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from protocol.catalogue import Choice
from protocol.events import Completion, Terminal

if TYPE_CHECKING:
    from workers.house import House

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
NOBODY: Final = "none"

log = structlog.get_logger()


class Metrics:
    """One registry a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._ended = Counter(
            "tokenrelay_generations", "Generations ended here, by finish reason or error code",
            ["outcome", "provider", "model"], registry=self.registry,
        )  # fmt: skip
        self._failures = Counter(
            "tokenrelay_provider_failures",
            "Calls that failed: patience that ran out (connect, first_token, between_tokens, total), or provider",
            ["reason", "provider", "model"],
            registry=self.registry,
        )
        self._first = Histogram(
            "tokenrelay_provider_first_token_seconds", "From a call of a maker to its first piece",
            ["provider", "model"], buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self._waited = Histogram(
            "tokenrelay_queue_wait_seconds", "From the request to the claim", buckets=SECONDS, registry=self.registry
        )
        self._tools = Counter("tokenrelay_tool_calls", "Tools run here", ["outcome"], registry=self.registry)
        self._fenced = Counter(
            "tokenrelay_fenced", "Generations that another attempt had taken over", registry=self.registry
        )

    def claimed(self, waited_s: float) -> None:
        self._waited.observe(max(0.0, waited_s))

    def answered(self, choice: Choice, seconds: float) -> None:
        """A maker gave its first piece."""
        self._first.labels(choice.model.provider, choice.model.id).observe(seconds)

    def failed(self, choice: Choice | None, reason: str) -> None:
        """A call of a maker came to nothing, or broke off."""
        self._failures.labels(reason, *_names(choice)).inc()

    def ended(self, choice: Choice | None, end: Terminal) -> None:
        outcome = end.finish_reason if isinstance(end, Completion) else end.code
        self._ended.labels(outcome, *_names(choice)).inc()

    def called(self, *, failed: bool) -> None:
        self._tools.labels("failed" if failed else "ok").inc()

    def fenced(self) -> None:
        self._fenced.inc()

    @contextlib.contextmanager
    def served(self, house: House, host: str, port: int) -> Iterator[None]:
        """Prometheus can read inside this block. With port 0 it cannot, nor where the port is taken: a worker without
        metrics is better than none, and its log says so."""
        self.registry.register(_Now(house))
        try:
            server, thread = start_http_server(port, host, self.registry) if port else (None, None)
        except OSError as error:
            log.error("metrics_port_taken", host=host, port=port, error=error.strerror)
            server, thread = None, None
        if server is None or thread is None:
            yield
            return
        log.info("metrics_listening", host=host, port=server.server_port)
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join(timeout=1)


class _Now(Collector):
    """Numbers that the worker has anyway. Read in the server's own thread: single values, nothing is gone over."""

    def __init__(self, house: House) -> None:
        self._house = house

    def collect(self) -> Iterator[Metric]:
        house, writer = self._house, self._house.writer
        yield GaugeMetricFamily("tokenrelay_active_generations", "Being written now", len(house.generations))
        yield GaugeMetricFamily("tokenrelay_dirty_logs", "Logs with something that Redis lacks", writer.dirty)
        yield CounterMetricFamily("tokenrelay_append_trips", "Round trips of the group commit", writer.trips)
        yield CounterMetricFamily("tokenrelay_appended_entries", "Entries sent in them", writer.entries)
        yield CounterMetricFamily("tokenrelay_writer_connects", "Times the writer was connected", writer.connects)


def _names(choice: Choice | None) -> tuple[str, str]:
    return (NOBODY, NOBODY) if choice is None else (choice.model.provider, choice.model.id)
