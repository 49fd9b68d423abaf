"""What an edge counts, under the names operators see; docs/metrics.md is its table. Knows no stream and no text."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from tokenrelay.protocol.errors import TABLE, TokenrelayError
from tokenrelay.protocol.lifecycle import TOLD_NOTHING
from tokenrelay.protocol.reading.feed import Feed
from tokenrelay.protocol.reading.session import Session
from tokenrelay.protocol.runtime.instruments import Instruments
from tokenrelay.protocol.wire.cursor import Answer

TRANSPORTS: Final = ("sse", "ws")
FRONTS: Final = ("chat", "responses", "ui")
"""Other clients' dialects, by the names that `protocol.fronts` gives them."""
TASKS: Final = ("live_feed", "look_at_logs", "clock", "lag", "reaper", "models", "counts", "webhooks", "store")
FILES: Final = ("TOKENRELAY_KEYS_FILE", "TOKENRELAY_JWKS_FILE")
"""By the settings that name them."""
SAMPLED: Final = 31
"""Delivery is timed at every 32nd event id: a mask, since this is asked of every write."""


class Metrics(Instruments):
    """One a process."""

    def __init__(self) -> None:
        super().__init__()
        self._trips = 0  # of the round trips, those counted here already
        codes = tuple(TABLE)
        self.started = self.counter(
            "tokenrelay_streams_started_total", "Generations asked for", transport=(*TRANSPORTS, "json", *FRONTS)
        )
        self.attached = self.counter(
            "tokenrelay_sessions_opened_total", "Readers of a stream that was there: come back with a cursor, or late",
            transport=TRANSPORTS, kind=("join", "resume"),
        )  # fmt: skip
        self.resumes = self.counter(
            "tokenrelay_resumes_total",
            "Resumes by outcome: live, replayed from the log of an ended stream, nothing to send, or an error code",
            transport=TRANSPORTS, outcome=("live", "replayed", "nothing", *codes),
        )  # fmt: skip
        self.sessions = self.gauge("tokenrelay_sessions", "Connections now", transport=TRANSPORTS)
        self.readers = self.gauge("tokenrelay_readers", "Readers of live streams now, whatever their connection")
        self.behind = self.gauge(
            "tokenrelay_sessions_behind", "Readers of live streams that stand before the shared window and read the log"
        )
        self.closed = self.counter(
            "tokenrelay_sessions_closed_total", "Sessions that are over: read to the end, dropped, detached on purpose",
            transport=TRANSPORTS, outcome=("read_to_end", "dropped", "detached"),
        )  # fmt: skip
        self.drops = self.counter(
            "tokenrelay_drops_total",
            "Sessions that ended before their stream's end was sent, by how far they were and why",
            transport=TRANSPORTS, phase=("before_first_token", "mid_stream", "at_end"),
            cause=("client", "vanished", "send_timeout", "closed_by_edge", "log_lost"),
        )  # fmt: skip
        self.entries_delivered = self.counter(
            "tokenrelay_entries_delivered_total", "Log entries handed to sockets, counted when a session is over",
            transport=TRANSPORTS,
        )  # fmt: skip
        self.replayed = self.counter(
            "tokenrelay_entries_replayed_total", "Log entries read again for readers that were behind or came late"
        )
        self.errors = self.counter("tokenrelay_errors_total", "Refusals by row of the error table", code=codes)
        self.cancels = self.counter("tokenrelay_cancels_total", "Stops asked for", transport=(*TRANSPORTS, "http"))
        self.send_timeouts = self.counter(
            "tokenrelay_send_timeouts_total",
            "Clients closed because they accepted no data",
            transport=(*TRANSPORTS, "json"),
        )
        self.vanished = self.counter(
            "tokenrelay_readers_vanished_total", "Connections whose other end had fallen silent", transport=TRANSPORTS
        )
        self.gaps = self.counter("tokenrelay_gaps_total", "Times a feed lacked something and read the log")
        self.gaps_closed = self.counter(
            "tokenrelay_gaps_closed_total", "Gaps by outcome: healed from the log, lost, or left by their last reader",
            outcome=("healed", "lost", "left"),
        )  # fmt: skip
        self.task_failures = self.counter(
            "tokenrelay_edge_task_failures_total", "Long-lived tasks that ended by a fault and were started anew",
            task=TASKS,
        )  # fmt: skip
        self.files_unreadable = self.gauge(
            "tokenrelay_files_unreadable", "1 while this file cannot be read: what was good still holds",
            "max", file=FILES,
        )  # fmt: skip
        self.live_connects = self.counter("tokenrelay_live_connects_total", "Times the live feed was connected")
        self.lag = self.gauge(
            "tokenrelay_edge_loop_lag_seconds", "How late the event loop last ran what was due", "max"
        )
        self.shed = self.counter(
            "tokenrelay_shed_total", "Streams refused because an event loop has been late for a while: this edge's, or "
            "that of every worker", by=("edge", "worker"),
        )  # fmt: skip
        self.probe_age = self.gauge(
            "tokenrelay_probe_age_seconds", "Since the live feed last proved that it works", "max"
        )
        self.probe = self.histogram(
            "tokenrelay_probe_seconds", "Edge to Redis and back through the live feed, on one clock"
        )
        self.round_trips = self.counter(
            "tokenrelay_edge_redis_round_trips_total",
            "Commands or pipelines sent to Redis, the live feed's not counted",
        )
        self.queue_depth = self.gauge(
            "tokenrelay_queue_depth", "Generations that wait for a worker, in all; absent while Redis is away", "max"
        )
        self.reaped = self.counter(
            "tokenrelay_reaped_total", "Overdue generations ended or queued again", outcome=("lost", "again", "late")
        )
        self.webhooks = self.counter(
            "tokenrelay_webhooks_total",
            "Webhooks: delivered; failed, to be tried again; given up after 24 h; dropped because too many waited",
            outcome=("delivered", "failed", "given_up", "dropped"),
        )  # fmt: skip
        self.webhooks_waiting = self.gauge(
            "tokenrelay_webhooks_waiting", "Ended streams whose webhook is not delivered yet, in all", "max"
        )
        self.ttft = self.histogram(
            "tokenrelay_ttft_seconds", "Request received to first token in the socket", transport=TRANSPORTS
        )
        self.stages = self.histogram(
            "tokenrelay_edge_stage_seconds",
            "Parts of the time to the first token: request received to enqueued; reached this edge to in the socket",
            stage=("admit", "edge"),
        )  # fmt: skip
        self.delivery = self.histogram(
            "tokenrelay_delivery_seconds",
            "An entry's arrival at this edge to in the socket, at every 32nd id of a stream", transport=TRANSPORTS,
        )  # fmt: skip

    def session_over(self, session: Session, feed: Feed | None, transport: str, cause: str, opened_at: int) -> None:
        """A session has ended; `opened_at` is the cursor it came with, `cause` why it ended if it was not the end."""
        self.entries_delivered.labels(transport).inc(session.cursor - opened_at)
        if session.has_ended:
            self.closed.labels(transport, "read_to_end").inc()
        elif cause == "detached":
            self.closed.labels(transport, "detached").inc()
        else:
            self.closed.labels(transport, "dropped").inc()
            self.drops.labels(transport, phase_of(session, feed), cause).inc()

    def gap_over(self, is_open: bool, is_lost: bool) -> None:
        self.gaps_closed.labels("lost" if is_lost else "left" if is_open else "healed").inc()

    @contextlib.contextmanager
    def resuming(self, transport: str, after: int) -> Iterator[Callable[[Answer], Answer]]:
        """Count what becomes of one who comes back with a cursor (0: nobody does): an answer, or the error raised."""
        outcome = "live"

        def answered(answer: Answer) -> Answer:
            nonlocal outcome
            outcome = _OUTCOMES[answer]
            return answer

        try:
            yield answered
        except TokenrelayError as error:
            outcome = error.code
            raise
        finally:
            if after:
                self.resumes.labels(transport, outcome).inc()

    def look(
        self,
        *,
        probe_age_s: float,
        readers: int,
        behind: int,
        trips: int,
        queue_depth: int | None,
        unreadable: Sequence[str],
        lag_s: float,
    ) -> None:
        """Set the gauges that are only looked at when somebody asks. `trips`: round trips to Redis since the start;
        `queue_depth` None: Redis did not say; `unreadable`: which of FILES are."""
        for file in FILES:
            self.files_unreadable.labels(file).set(float(file in unreadable))
        self.probe_age.set(probe_age_s)
        self.lag.set(lag_s)
        self.readers.set(readers)
        self.behind.set(behind)
        self.round_trips.inc(trips - self._trips)
        self._trips = trips
        self.queue_depth.clear()
        if queue_depth is not None:
            self.queue_depth.set(queue_depth)


_OUTCOMES: Final = {Answer.FOLLOW: "live", Answer.REPLAY: "replayed", Answer.NOTHING_MORE: "nothing"}


def phase_of(session: Session, feed: Feed | None) -> str:
    """How far a reader was. Without a feed all of its stream was in the log: it was reading the end."""
    if session.cursor <= TOLD_NOTHING or (feed is not None and not feed.has_output(session.cursor)):
        return "before_first_token"
    return "at_end" if feed is None or feed.has_ended else "mid_stream"
