"""The users as locust knows them: sources from which streams arrive at an open rate, whatever the server does.

Each user is one source. Each stream runs in a greenlet of its own, so a slow answer delays no arrival (a closed
loop would: it asks less of a server the slower that server is, and so hides what it should find).
"""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Callable
from typing import Any, Final

import gevent
from gevent.pool import Group
from locust import LoadTestShape, User, task
from locust.env import Environment
from locust.runners import MasterRunner

from tokenrelay.loadtest.client import BEHAVIOURS, Run
from tokenrelay.loadtest.figures import Record, percentile
from tokenrelay.loadtest.scenarios import SCENARIOS, SHAPES, Scenario
from tokenrelay.loadtest.wire import Target
from tokenrelay.protocol.models import scripted

BUSY: Final = 0.85
"""A generator that needs more of its one core than this, or is late by LAG_MS at p99, measures itself."""

LAG_MS: Final = 50.0
TICK_S: Final = 0.05


class Load:
    """A scenario against a target: when streams arrive, and how the generator itself fares."""

    def __init__(self, scenario: Scenario, run: Run, rate: float, duration_s: float, sources: int) -> None:
        self.scenario = scenario
        self.run = run
        self.duration_s = duration_s
        self.sources = sources  # of each user class, over all generators
        self._rate = rate
        self._shape = SHAPES[scenario.shape]
        self._streams = Group()
        self._lags: list[float] = []  # the last ten thousand, ms
        self._began_cpu_s = 0.0
        self.busy = 0.0
        self.cpu_s = 0.0
        self.generators: dict[str, dict[str, float]] = {}  # by their ids; empty unless we are the master of some

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self.run.began

    @property
    def tail_s(self) -> float:
        """How long after the last arrival its stream may still be written."""
        if not scripted.is_scripted(self.run.model):
            return self.run.patience_s
        spec = scripted.parse(self.run.model)
        return (spec.first_ms + spec.tokens * spec.interval_ms) / 1000 + 10

    def begin(self) -> None:
        self.run.began = time.perf_counter()
        self._began_cpu_s = cpu_seconds()
        self._watcher = gevent.spawn(self._watch)

    def rate_of_one(self) -> float:
        """Streams a second that one source starts now."""
        if self.elapsed_s >= self.duration_s:
            return 0.0
        return self._rate * self._shape(self.elapsed_s / self.duration_s) / len(self.scenario.users) / self.sources

    def arrive(self, name: str) -> None:
        self._streams.start(gevent.Greenlet(self.run.serve, name, BEHAVIOURS[name]))

    def finish(self) -> None:
        """Wait for what is under way; what does not end is a failure."""
        self._streams.join(timeout=self.run.patience_s + 60)
        for _ in range(len(self._streams)):
            self.run.record.fail("the stream had not ended long after the run")
        self._streams.kill()
        self._watcher.kill()
        self.cpu_s = cpu_seconds() - self._began_cpu_s
        self.busy = max(self.busy, self.cpu_s / max(self.elapsed_s, 0.001))

    def health(self) -> dict[str, Any]:
        """What the generator cost, and whether it was the bottleneck."""
        seen = list(self.generators.values()) or [self.strain()]
        busy, lag = max(one["busy"] for one in seen), max(one["lag_ms"] for one in seen)
        cpu_s, tokens = sum(one["cpu_s"] for one in seen), self.run.record.counts["tokens"]
        return {
            "cpu_us_per_token": round(cpu_s / tokens * 1e6, 1) if tokens else 0.0,
            "busy": round(busy, 3),
            "lag_ms_p99": round(lag, 1),
            "generators": len(seen),
            "was_bottleneck": busy > BUSY or lag > LAG_MS,
        }

    def strain(self) -> dict[str, float]:
        """What this one generator did so far."""
        cpu_s = self.cpu_s or (cpu_seconds() - self._began_cpu_s if self._began_cpu_s else 0.0)
        return {
            "busy": self.busy,
            "lag_ms": percentile(self._lags, 0.99) if self._lags else 0.0,
            "cpu_s": cpu_s,
            "has_ended": float(self._began_cpu_s > 0 and self.elapsed_s >= self.duration_s and not len(self._streams)),
        }

    def blame_the_lost(self) -> None:
        """A generator that was last heard of before its last stream had ended: what it saw since is not counted."""
        for one in self.generators.values():
            if not one["has_ended"]:
                self.run.record.fail("a generator was lost or stopped in mid-run")

    def _watch(self) -> None:
        """How late the generator's own loop is, and its busiest five seconds."""
        since, cpu = time.perf_counter(), cpu_seconds()
        while True:
            due = time.perf_counter() + TICK_S
            gevent.sleep(TICK_S)
            now = time.perf_counter()
            self._lags.append((now - due) * 1000)
            del self._lags[:-10_000]
            if now - since >= 5:
                self.busy = max(self.busy, (cpu_seconds() - cpu) / (now - since))
                since, cpu = now, cpu_seconds()


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def load_from(options: Any, host: str) -> Load:
    """From what the command line said. Raises ValueError, TokenrelayError."""
    scenario = SCENARIOS[options.scenario]
    run = Run(Target(host, options.key or None), options.model or scenario.model)
    rate, duration = options.rate or scenario.rate, options.duration or scenario.duration_s
    return Load(scenario, run, rate, duration, options.sources)


def attach(environment: Environment, load: Load) -> None:
    """Make it the load of this locust, its figures lines of locust's table, its generators' records one."""
    environment.tokenrelay = load
    load.run.fire = firing(environment)
    events = environment.events
    events.test_start.add_listener(lambda **_: load.begin())
    events.test_stop.add_listener(lambda **_: load.finish())
    events.report_to_master.add_listener(
        lambda data, **_: data.update(tokenrelay={"record": take_record(load), "strain": load.strain()})
    )
    events.worker_report.add_listener(lambda client_id, data, **_: merge_report(load, client_id, data))


def take_record(load: Load) -> dict[str, Any]:
    taken, load.run.record = load.run.record, Record()
    return taken.to_object()


def merge_report(load: Load, client_id: str, data: dict[str, Any]) -> None:
    if "tokenrelay" in data:
        load.run.record.merge(Record.from_object(data["tokenrelay"]["record"]))
        load.generators[client_id] = data["tokenrelay"]["strain"]


def firing(environment: Environment) -> Callable[[str, str, float, str | None], None]:
    def fire(kind: str, name: str, milliseconds: float, trouble: str | None) -> None:
        environment.events.request.fire(
            request_type=kind,
            name=name,
            response_time=milliseconds,
            response_length=0,
            exception=None if trouble is None else RuntimeError(trouble),
            context={},
        )

    return fire


class OpenRate(LoadTestShape):  # type: ignore[misc]
    """All sources at once, to the end of the run; the rate itself is the sources' own."""

    def tick(self) -> tuple[int, float] | None:
        load: Load = self.runner.environment.tokenrelay
        tail_s = load.tail_s if isinstance(self.runner, MasterRunner) else 0  # its generators would be told to go
        if self.get_run_time() >= load.duration_s + tail_s:
            return None
        users = len(load.scenario.users) * load.sources
        return users, users * 10


class Source(User):  # type: ignore[misc]
    """Streams of one kind arrive at random, at the rate of the moment."""

    abstract = True

    @task  # type: ignore[untyped-decorator]
    def arrivals(self) -> None:
        load: Load = self.environment.tokenrelay
        load.arrive(type(self).__name__)  # the first at once: also the shortest run has one of each
        due = time.perf_counter()
        while True:
            rate = load.rate_of_one()
            if rate <= 0:
                gevent.sleep(TICK_S)
                due = time.perf_counter()
                continue
            due += random.expovariate(rate)
            gevent.sleep(max(0.0, due - time.perf_counter()))  # behind: at once, so the rate holds
            if load.rate_of_one() > 0:
                load.arrive(type(self).__name__)


class SseChat(Source):
    """One answer over SSE."""


class WebSocketChat(Source):
    """One answer over WebSocket, in either subprotocol."""


class Resumer(Source):
    """Drops at random and verifies every byte."""


class LateJoiner(Source):
    """Comes when the answer is half written."""


class SlowReader(Source):
    """Hardly reads."""


class Storm(Source):
    """All drop at once."""


ALL: Final = {kind.__name__: kind for kind in (SseChat, WebSocketChat, Resumer, LateJoiner, SlowReader, Storm)}
