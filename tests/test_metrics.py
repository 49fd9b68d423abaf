"""What operators see: docs/metrics.md names every metric that edges and workers show, and no other; and they count."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from prometheus_client.parser import text_string_to_metric_families as families

from server.metrics import Metrics as EdgeMetrics
from tests.fleet import Fleet, free_port
from tests.wire import Sse
from workers.metrics import Metrics, _Now

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"
SHOWN = {"counter": "_total", "gauge": "", "histogram": ""}
FAILING = "scripted?tokens=5&interval_ms=0&fail_after=2"


def rows(registry: Any) -> str:
    """The rows of the page: as a scrape names them, with their labels and help."""
    lines = []
    for metric in registry.collect():
        collector = registry._names_to_collectors.get(metric.name)
        labels = " ".join(f"`{name}`" for name in getattr(collector, "_labelnames", ()))
        lines.append(f"| `{metric.name}{SHOWN[metric.type]}` | {metric.type} | {labels} | {metric.documentation} |")
    return "\n".join(sorted(lines))


def edge_rows() -> str:
    return rows(EdgeMetrics()._registry)


def worker_rows() -> str:
    metrics = Metrics()
    writer = SimpleNamespace(dirty=0, trips=0, entries=0, connects=0)
    house: Any = SimpleNamespace(generations={}, writer=writer)
    metrics.registry.register(_Now(house))
    return rows(metrics.registry)


def table(section: str) -> str:
    text = PAGE.read_text(encoding="utf-8").split(f"## {section}\n")[1].split("\n## ")[0]
    return "\n".join(line for line in text.splitlines() if line.startswith("| `"))


def test_the_page_names_what_there_is() -> None:
    assert table("Edge") == edge_rows()
    assert table("Worker") == worker_rows()


def test_the_queries_ask_for_metrics_and_labels_that_there_are() -> None:
    known = dict(re.findall(r"^\| `(\w+)` \| \w+ \| (.*?) \|", edge_rows() + "\n" + worker_rows(), re.MULTILINE))
    queries = re.findall(r"^\| .+\? \| `(.+)` \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(queries) > 5
    for query in queries:
        asked = {re.sub("_bucket$", "", name) for name in re.findall(r"tokenrelay_\w+", query)}
        assert asked <= known.keys(), query
        labels = {word for name in asked for word in re.findall(r"`(\w+)`", known[name])} | {"le"}
        used = re.findall(r"(\w+)=~?\"", query) + [
            word for by in re.findall(r"by \((.*?)\)", query) for word in by.split(", ")
        ]
        assert set(used) <= labels, query


def scrape(url: str) -> dict[tuple[str, frozenset[str]], float]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in families(text)
        for sample in family.samples
    }


def of(*labels: str) -> frozenset[str]:
    return frozenset(labels)


def test_a_worker_counts_what_became_of_its_generations() -> None:
    port = free_port()

    async def ask(url: str, model: str) -> None:
        async with Sse.post(url, {"message": "a", "model": model}) as stream:
            await stream.take()

    async def scene(url: str) -> None:
        for model in (
            "scripted?tokens=5&interval_ms=0",
            "scripted?tokens=5&interval_ms=0&tool_after=2",
            FAILING,
            "scripted?tokens=3",
        ):
            await ask(url, model)

    with Fleet(edges=1, workers=1, env={"TOKENRELAY_METRICS_PORT": str(port)}) as fleet:
        asyncio.run(scene(fleet.urls[0]))
        found = scrape(f"http://127.0.0.1:{port}/metrics")
        refused = scrape(f"{fleet.urls[0]}/metrics")
    assert found["tokenrelay_generations_total", of("stop", "Scripted", "scripted")] == 3
    assert found["tokenrelay_generations_total", of("PROVIDER_ERROR", "Scripted", "scripted")] == 1
    assert found["tokenrelay_provider_failures_total", of("provider", "Scripted", "scripted")] == 1
    assert found["tokenrelay_tool_calls_total", of("ok")] == 1
    assert found["tokenrelay_provider_first_token_seconds_count", of("Scripted", "scripted")] == 5  # one for each round
    assert found["tokenrelay_queue_wait_seconds_count", of()] == 4
    assert found["tokenrelay_active_generations", of()] == 0
    assert found["tokenrelay_appended_entries_total", of()] > found["tokenrelay_append_trips_total", of()] > 0
    assert refused["tokenrelay_streams_started_total", of("sse")] == 4
