"""One real stack that lived through everything, and what it told of it: metrics, traces, logs, timings, Prometheus.

An edge, a worker, Redis; three providers on loopback (one answers, one fails, one says nothing), a receiver of traces,
and Prometheus itself where this machine has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.end_to_end.test_providers import ANTHROPIC, KEYS
from tests.fleet import Fleet, until
from tests.wire import EventPair, Sse, Ws, call, start
from tokenrelay.loadtest.fleet import free_port

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = f"00-{TRACE}-00f067aa0ba902b7-01"
FIRST_MS = 300
PROMPT = "a prompt that nobody may find again"
TYPED = "claude-typed-by-a-caller"
TIMED = {"X-Debug-Timing": "1"}


@dataclass
class Observed:
    """What came of it."""

    edge: str = ""
    worker: str = ""
    logs: str = ""
    spans: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)  # path and headers that the providers got
    ends: dict[str, dict[str, Any]] = field(default_factory=dict)  # last events, by what was tried
    prometheus: str | None = None  # address; None: this machine has none

    def samples(self, text: str) -> list[Sample]:
        return [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """The sum of all series that have these labels."""
        found = [
            sample.value
            for sample in self.samples(self.edge) + self.samples(self.worker)
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert found, f"no {name} {labels}"
        return sum(found)


class World:
    """The providers and the receiver of traces, on one port."""

    def __init__(self, seen: Observed) -> None:
        self._seen = seen

    async def provider(self, request: web.Request) -> web.StreamResponse:
        self._seen.asked.append((request.path, {name.lower(): value for name, value in request.headers.items()}))
        if "responses" in request.path:
            return web.json_response({"error": {"message": "no"}}, status=503)
        if "messages" not in request.path:
            await asyncio.sleep(30)  # says nothing; the worker closes first
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(ANTHROPIC)
        return stream

    async def traces(self, request: web.Request) -> web.Response:
        exported = ExportTraceServiceRequest.FromString(await request.read())
        for resource in exported.resource_spans:
            service = {item.key: item.value.string_value for item in resource.resource.attributes}["service.name"]
            self._seen.spans += [
                {
                    "service": service, "name": span.name, "trace": span.trace_id.hex(), "id": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(), "took_ns": span.end_time_unix_nano - span.start_time_unix_nano,
                    "attributes": {item.key: item.value.string_value for item in span.attributes},
                }
                for scope in resource.scope_spans for span in scope.spans
            ]  # fmt: skip
        return web.Response()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_post("/v1/traces", self.traces)
        app.router.add_post("/{path:.*}", self.provider)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            await runner.cleanup()


async def live_through(url: str, seen: Observed) -> None:
    """All that the metrics can tell of."""

    async def end_of(name: str, model: str, headers: dict[str, str] | None = None, **body: Any) -> None:
        async with Sse.post(url, {"message": PROMPT, "model": model, **body}, headers) as stream:
            seen.ends[name] = last(await stream.take())

    known = {"X-Request-Id": "from-the-caller", "traceparent": CALLER}
    await end_of("slow", f"scripted?tokens=64&first_ms={FIRST_MS}", TIMED)
    await end_of("traced", "claude", {**known, **TIMED})
    await end_of("tool", "scripted?tokens=8&tool_after=2", {"traceparent": CALLER})
    await end_of("failed", "scripted?tokens=5&fail_after=2")
    await end_of("failed over", "openai")
    await end_of("timed out", "gemini-typed-by-a-caller")
    await end_of("typed", TYPED)
    _, seen.ends["json"], _ = await call(
        "POST", f"{url}/api/chat", {"message": PROMPT, "model": f"scripted?tokens=3&first_ms={FIRST_MS}"}, TIMED
    )
    await call("POST", f"{url}/api/chat", {"message": " "})
    stream_id = ""
    for binary in (False, True):
        async with Ws(url, headers=TIMED, binary=binary) as socket:
            stream_id = await socket.start({"message": PROMPT, "model": f"scripted?tokens=64&first_ms={FIRST_MS}"})
            seen.ends["socket, msgpack" if binary else "socket"] = last(await socket.take(stream_id))
    async with Sse.get(url, stream_id, after=5) as stream:
        seen.ends["read again"] = last(await stream.take())
    await call("GET", f"{url}/api/streams/{'0' * 32}", headers={"Last-Event-ID": "3"})
    running = await start(url, "scripted?tokens=100000&interval_ms=5")  # dropped before its first token, or just after
    async with Sse.get(url, running) as stream:
        await stream.take(3)  # and dropped in mid-stream
    await call("POST", f"{url}/api/streams/{running}/cancel")


def last(events: list[EventPair]) -> dict[str, Any]:
    return events[-1][1]


@contextlib.contextmanager
def prometheus_of(edge: str, worker: str) -> Iterator[str | None]:
    """A real one that asks both twice a second; None where there is none."""
    import subprocess

    binary = shutil.which("prometheus")
    if binary is None:
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="tr-prometheus-"))
    jobs = [{"job_name": name, "static_configs": [{"targets": [at]}]} for name, at in (("e", edge), ("w", worker))]
    config = {"global": {"scrape_interval": "500ms", "scrape_timeout": "400ms"}, "scrape_configs": jobs}
    (folder / "p.yml").write_text(json.dumps(config))  # JSON is YAML
    port = free_port()
    options = ["--config.file", str(folder / "p.yml"), "--storage.tsdb.path", str(folder / "data")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [binary, *options, "--web.listen-address", f"127.0.0.1:{port}"], cwd=folder, stdout=log, stderr=log
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


async def evaluate(prometheus: str, query: str) -> list[Any]:
    """Raises with Prometheus' own words when it is no query."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{prometheus}/api/v1/query", params={"query": query}) as answer,
    ):
        body = await answer.json()
    assert body["status"] == "success", f"{query}: {body}"
    return list(body["data"]["result"])


async def text(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
        return await answer.text()


async def observe(queries: dict[str, str]) -> tuple[Observed, dict[str, list[Any]]]:
    """Live through it all, then ask Prometheus each of the queries."""
    seen, results = Observed(), dict[str, list[Any]]()
    async with World(seen).running() as world:
        port = free_port()
        env = {
            **KEYS, "TOKENRELAY_OPENAI_BASE_URL": f"{world}/v1", "TOKENRELAY_ANTHROPIC_BASE_URL": world,
            "TOKENRELAY_GEMINI_BASE_URL": world, "OTEL_EXPORTER_OTLP_ENDPOINT": world, "OTEL_BSP_SCHEDULE_DELAY": "200",
            "TOKENRELAY_METRICS_PORT": str(port), "TOKENRELAY_FIRST_TOKEN_TIMEOUT_S": "0.4",
            "TOKENRELAY_MAX_ATTEMPTS": "2",
        }  # fmt: skip
        fleet = await asyncio.to_thread(Fleet(env=env).__enter__)
        try:
            url, worker = fleet.urls[0], f"http://127.0.0.1:{port}"
            with prometheus_of(url.removeprefix("http://"), worker.removeprefix("http://")) as seen.prometheus:
                # Twice with a scrape between: a rate needs two samples, and one that grew needs a first.
                await live_through(url, seen)
                if seen.prometheus is not None:
                    await until_scraped(seen.prometheus)
                    await live_through(url, seen)
                    await until_scraped(seen.prometheus)
                    results = {name: await evaluate(seen.prometheus, query) for name, query in queries.items()}
                await until_settled(worker)
                seen.edge, seen.worker = await text(url), await text(worker)
            async with asyncio.timeout(15):
                while not {"request", "provider call", "tool call"} <= {span["name"] for span in seen.spans}:
                    await asyncio.sleep(0.05)
        finally:
            for process in (*fleet.edges, *fleet.workers):
                process.terminate()  # what is left of the spans is sent on the way out
            for process in (*fleet.edges, *fleet.workers):
                await asyncio.to_thread(process.wait, 15)
            seen.logs = whole_logs(fleet)
            await asyncio.to_thread(fleet.__exit__, None, None, None)
    return seen, results


def whole_logs(fleet: Fleet) -> str:
    return "\n".join(path.read_text() for path in sorted(fleet.folder.glob("*-*.log")))


async def until_settled(worker: str) -> None:
    """Nothing runs any more: a cancel is heard of within a moment."""
    async with asyncio.timeout(15):
        while "tokenrelay_generations 0.0" not in await text(worker):
            await asyncio.sleep(0.05)


async def until_scraped(prometheus: str) -> None:
    """Both have been asked three times since now."""

    async def scrapes() -> int:
        with contextlib.suppress(aiohttp.ClientError):
            found = await evaluate(prometheus, "min(count_over_time(up[1h])) and count(up == 1) == 2")
            return int(found[0]["value"][1]) if found else 0
        return 0

    async with asyncio.timeout(30):
        first = await scrapes()
        while await scrapes() < first + 3:
            await asyncio.sleep(0.1)


__all__ = ["CALLER", "FIRST_MS", "PROMPT", "TRACE", "TYPED", "Observed", "observe", "until"]
