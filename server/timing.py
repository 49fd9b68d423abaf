"""When what happened to a stream at this edge, by this process's monotonic clock. Writes no event."""

from __future__ import annotations

import time

import msgspec

from tokenrelay.protocol.reading.feed import Chunk, Feed, Format
from tokenrelay.protocol.runtime.tracing import Tracing
from tokenrelay.protocol.store.context import Context
from tokenrelay.protocol.wire import timing
from tokenrelay.server.metrics import Metrics


class RequestTimer:
    """One stream that began here, from the request to the first token in the socket. Times in seconds; None while what
    they measure has not happened."""

    def __init__(self, tracing: Tracing, context: Context, received_at: float) -> None:
        ago_s = time.monotonic() - received_at
        self._span = tracing.span("request", context.traceparent, "server", ago_s, request_id=context.request_id)
        self.context = msgspec.structs.replace(context, traceparent=self._span.traceparent)
        """What goes with the generation: what is done for it is below our span."""
        self._received_at = received_at
        self._admitted_s: float | None = None
        self._edge_s: float | None = None
        self._ttft_s: float | None = None

    def over(self, error: str = "") -> None:
        """The request has been answered, or its reader is gone."""
        self._span.end(error)

    @property
    def wants_timing(self) -> bool:
        return self.context.wants_timing

    @property
    def is_waiting(self) -> bool:
        """The first token has not been sent yet."""
        return self._ttft_s is None

    def enqueued(self, metrics: Metrics) -> None:
        self._admitted_s = time.monotonic() - self._received_at
        metrics.stages.labels("admit").observe(self._admitted_s)

    def sent(self, metrics: Metrics, transport: str, reached_at: float, now: float) -> None:
        """The first token, which reached this edge at `reached_at`, is in the socket."""
        self._edge_s = now - reached_at
        self._ttft_s = now - self._received_at
        metrics.stages.labels("edge").observe(self._edge_s)
        metrics.ttft.labels(transport).observe(self._ttft_s)

    def told(self, chunk: Chunk, feed: Feed, form: Format, reached_at: float) -> Chunk:
        """The chunk with which the stream ends, where the caller asked for it with our parts in its completion. An end
        that leaves together with the first token is told what is known just before."""
        if not chunk.is_last or not self.wants_timing or feed.newest is None:
            return chunk
        now = time.monotonic()
        edge_s = now - reached_at if self._edge_s is None else self._edge_s
        ttft_s = now - self._received_at if self._ttft_s is None else self._ttft_s
        ours = {"admit_ms": timing.ms(self._admitted_s or 0.0), "edge_ms": timing.ms(edge_s)}
        return timing.told(chunk, feed.newest, form, feed.stream_id, ours, timing.ms(ttft_s))
