"""What an edge counts, under the names operators see. Knows no stream and no text."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """One registry a process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.started = Counter(
            "tokenrelay_streams_started", "Generations asked for", ["transport"], registry=self._registry
        )
        self.attached = Counter(
            "tokenrelay_sessions_opened", "Readers that came", ["transport", "kind"], registry=self._registry
        )
        self.sessions = Gauge("tokenrelay_sessions", "Readers now", ["transport"], registry=self._registry)
        self.errors = Counter(
            "tokenrelay_errors", "Refusals by row of the error table", ["code"], registry=self._registry
        )
        self.send_timeouts = Counter(
            "tokenrelay_send_timeouts", "Sockets closed because they took nothing", ["transport"],
            registry=self._registry,
        )  # fmt: skip
        self.vanished = Counter(
            "tokenrelay_readers_vanished", "SSE readers whose system had fallen silent", registry=self._registry
        )
        self.gaps = Counter(
            "tokenrelay_gaps", "Times a feed lacked something and read the log", registry=self._registry
        )
        self.live_connects = Counter(
            "tokenrelay_live_connects", "Times the live feed was connected", registry=self._registry
        )
        self.reaped = Counter(
            "tokenrelay_reaped", "Overdue generations ended or queued again", ["outcome"], registry=self._registry
        )
        self.probe_age = Gauge(
            "tokenrelay_probe_age_seconds", "Since the live feed last proved that it works", registry=self._registry
        )

    def text(self) -> bytes:
        """The Prometheus text exposition."""
        return generate_latest(self._registry)
