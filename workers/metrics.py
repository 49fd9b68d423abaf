"""What a worker counts, under the names operators see; docs/metrics.md is its table. Knows no text and no caller.

A model's label is the id of its row in the catalogue, never what somebody typed; an id passed through is `other`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from tokenrelay.protocol.errors import TABLE
from tokenrelay.protocol.events import Completion, Terminal
from tokenrelay.protocol.models.catalogue import Choice
from tokenrelay.protocol.runtime.instruments import LATENCY_S, Instruments

if TYPE_CHECKING:
    from tokenrelay.workers.conversation import Usage
    from tokenrelay.workers.providers.base import ProviderError, Reason

TIMEOUTS: Final = ("connect", "first_token", "between_tokens", "total")
OUTCOMES: Final = ("completed", "cancelled", "failed")
BLAMES: Final = ("request", "context_window", "model", "key", "provider")
STAGES: Final = ("queue", "pickup", "failed", "provider", "append")
TASKS: Final = (
    "store",
    "writer",
    "pulse",
    "lag",
    "claims",
    "wake_feed",
    "tools",
    "handlers",
    "reload",
    "counts",
    "metrics",
    "warm",
)
SAMPLED: Final = 15
"""The gap before every 16th token of a round is measured: a mask."""

SIZES: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0)
CIRCUIT: Final = {"closed": 0.0, "half_open": 1.0, "open": 2.0}


class Figures(NamedTuple):
    """What the gauges show when somebody asks, and what others have counted since the start."""

    generations: int
    most: int
    buffered_bytes: int
    dirty_logs: int
    lag_s: float
    circuits: Mapping[str, str]
    append_trips: int
    other_trips: int
    entries: int


class Metrics(Instruments):
    """One a process. `models` and `tools` have no values known here: they are the operator's."""

    def __init__(self) -> None:
        super().__init__()
        of_whom: dict[str, tuple[str, ...]] = {"provider": (), "model": ()}
        codes = tuple(TABLE)
        self.ended = self.counter(
            "tokenrelay_streams_ended_total", "Generations that this worker ended, by outcome, provider and model",
            outcome=OUTCOMES, **of_whom,
        )  # fmt: skip
        self.failed = self.counter(
            "tokenrelay_streams_failed_total", "Failed generations by row of the error table", code=codes, **of_whom
        )
        self.tokens = self.counter(
            "tokenrelay_tokens_total", "Tokens as the providers count them, read and written",
            direction=("input", "output"), **of_whom,
        )  # fmt: skip
        self.token_kinds = self.counter(
            "tokenrelay_token_kinds_total",
            "Of those tokens: read from a cache, written to a cache, written while thinking",
            kind=("cached_input", "cache_write", "reasoning"), **of_whom,
        )  # fmt: skip
        self.cost = self.counter(
            "tokenrelay_cost_usd_total", "US dollars by the prices of the catalogue, where a row has any", **of_whom
        )
        self.stages = self.histogram(
            "tokenrelay_worker_stage_seconds",
            "Parts of the time to the first token: waiting in the queue; taken to asked; calls that failed before; "
            "asked to first piece; first piece to in the log",
            stage=STAGES,
        )  # fmt: skip
        self.first_piece = self.histogram(
            "tokenrelay_provider_first_token_seconds", "A provider's call to its first piece", LATENCY_S, **of_whom
        )
        self.gap = self.histogram(
            "tokenrelay_token_gap_seconds",
            "Between two pieces of one answer, before every 16th of a round",
            LATENCY_S,
            **of_whom,
        )
        self.generations = self.gauge("tokenrelay_generations", "Generations under way")
        self.most = self.gauge("tokenrelay_generations_max", "Generations that may be under way at once")
        self.lag = self.gauge(
            "tokenrelay_worker_loop_lag_seconds", "How late the event loop last ran what was due", "max"
        )
        self.dirty = self.gauge("tokenrelay_dirty_logs", "Logs with something that Redis lacks")
        self.buffered = self.gauge("tokenrelay_buffered_bytes", "Written by models, not yet acknowledged by Redis")
        self.attempts = self.counter(
            "tokenrelay_attempts_failed_total", "Calls of providers that failed before their first piece", blame=BLAMES,
            **of_whom,
        )  # fmt: skip
        self.failovers = self.counter(
            "tokenrelay_failovers_total", "Rounds that another model answered than was asked first, by that first one",
            **of_whom,
        )  # fmt: skip
        self.timeouts = self.counter(
            "tokenrelay_provider_timeouts_total", "Provider calls that timed out, by phase", kind=TIMEOUTS,
            **of_whom,
        )  # fmt: skip
        self.circuit = self.gauge(
            "tokenrelay_circuit_state",
            "Of a model, as all workers see it: 0 closed, 1 half open, 2 open",
            "max",
            model=(),
        )
        self.tool_calls = self.counter(
            "tokenrelay_tool_calls_total", "Tools that were called here; `other` is a name that no tool has",
            tool=(), outcome=("ok", "failed"),
        )  # fmt: skip
        self.tool_seconds = self.histogram("tokenrelay_tool_seconds", "How long a tool took", tool=())
        self.stopped = self.counter(
            "tokenrelay_generations_stopped_total", "Generations stopped before their model's end, by why",
            why=("cancel", "unheard", "lost", "leaving", "between_tokens", "total"),
        )  # fmt: skip
        self.fenced = self.counter(
            "tokenrelay_appends_fenced_total", "Generations that somebody else may write now, or that Redis lost"
        )
        self.writer_connects = self.counter(
            "tokenrelay_writer_connects_total", "Times the connection that all appends take was opened"
        )
        self.task_failures = self.counter(
            "tokenrelay_worker_task_failures_total", "Long-lived tasks that ended by a fault and were started anew",
            task=TASKS,
        )  # fmt: skip
        self.wake_connects = self.counter(
            "tokenrelay_wake_connects_total", "Times the feed of wake-ups and cancels was subscribed"
        )
        self.trips = self.counter(
            "tokenrelay_worker_redis_round_trips_total", "Times Redis was asked: appends, or everything else",
            kind=("append", "other"),
        )  # fmt: skip
        self.batch = self.histogram("tokenrelay_append_batch_entries", "Entries in one round trip of appends", SIZES)
        self.trip_seconds = self.histogram("tokenrelay_append_seconds", "One round trip of appends")
        self.entries = self.counter("tokenrelay_entries_appended_total", "Log entries sent to Redis")
        self.blocked = self.counter(
            "tokenrelay_worker_handler_blocked_total", "Times a handler blocked the handlers' event loop for a second",
            handler=(),
        )  # fmt: skip
        self._counted = {"append": 0, "other": 0, "entries": 0}  # of what others count for us, what stands here already

    def handler_blocked(self, handler: str) -> None:
        """`handler` is as in the catalogue, or `unknown`."""
        self.blocked.labels(handler).inc()

    # -- what happens now and then -------------------------------------------------------------------------------------

    def stream_ended(self, end: Terminal, choice: Choice | None) -> None:
        """`choice` is who wrote, or was asked last; None: nobody was."""
        whom = whose(choice)
        if isinstance(end, Completion):
            outcome = "cancelled" if end.finish_reason == "cancelled" else "completed"
        else:
            outcome = "failed"
            self.failed.labels(end.code if end.code in TABLE else "INTERNAL_ERROR", *whom).inc()
        self.ended.labels(outcome, *whom).inc()

    def used(self, choice: Choice, usage: Usage, cost_usd: float | None) -> None:
        """What one round took. `cost_usd` None: its row has no price."""
        whom = whose(choice)
        self.tokens.labels("input", *whom).inc(usage.input_tokens)
        self.tokens.labels("output", *whom).inc(usage.output_tokens)
        for kind, count in (
            ("cached_input", usage.cached_input_tokens),
            ("cache_write", usage.cache_write_tokens),
            ("reasoning", usage.reasoning_tokens),
        ):
            if count:
                self.token_kinds.labels(kind, *whom).inc(count)
        if cost_usd:
            self.cost.labels(*whom).inc(cost_usd)

    def attempt_failed(self, choice: Choice, error: ProviderError) -> None:
        self.attempts.labels(error.blame, *whose(choice)).inc()
        self.timed_out(choice, error.reason)

    def timed_out(self, choice: Choice | None, reason: Reason) -> None:
        """Counts it if a timeout ran out."""
        if reason != "provider":
            self.timeouts.labels(reason, *whose(choice)).inc()

    def answered(self, asked: Choice, choice: Choice, seconds: float) -> None:
        """A round has its first piece from `choice`; `asked` was asked first."""
        self.first_piece.labels(*whose(choice)).observe(seconds)
        if choice is not asked:
            self.failovers.labels(*whose(asked)).inc()

    def tool_called(self, tool: str, failed: bool, seconds: float) -> None:
        self.tool_calls.labels(tool, "failed" if failed else "ok").inc()
        self.tool_seconds.labels(tool).observe(seconds)

    # -- what is looked at when somebody asks --------------------------------------------------------------------------

    def look(self, now: Figures) -> None:
        """Set the gauges, and take over what others count for us."""
        self.generations.set(now.generations)
        self.most.set(now.most)
        self.buffered.set(now.buffered_bytes)
        self.dirty.set(now.dirty_logs)
        self.lag.set(now.lag_s)
        self.circuit.clear()
        for model, circuit in now.circuits.items():
            self.circuit.labels(model).set(CIRCUIT[circuit])
        self._take("append", now.append_trips, self.trips.labels("append").inc)
        self._take("other", now.other_trips, self.trips.labels("other").inc)
        self._take("entries", now.entries, self.entries.inc)

    def _take(self, name: str, now: int, inc: Callable[[float], None]) -> None:
        inc(now - self._counted[name])
        self._counted[name] = now


def whose(choice: Choice | None) -> tuple[str, str]:
    """The labels `provider` and `model`."""
    if choice is None:
        return "none", "none"
    row = choice.model
    return row.provider, row.id if choice.upstream == row.upstream or row.dialect == "scripted" else "other"
