"""What a stack tells of itself is true: counts, labels, where the time went, one trace, one id, no text."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml

from tests.end_to_end.observed import FIRST_MS, PROMPT, TRACE, TYPED, Observed, observe
from tests.needs import require
from tokenrelay.protocol.models import catalogue
from tokenrelay.protocol.wire import timing
from tokenrelay.server.metrics import Metrics as EdgeMetrics
from tokenrelay.workers.metrics import Metrics as WorkerMetrics

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
AT_LEAST_MS = FIRST_MS - 1
"""The loop's timers count whole milliseconds: one may ring up to one early."""

ROWS = {row.name: row for counts in (EdgeMetrics(), WorkerMetrics()) for row in counts.rows}


@cache
def queries() -> dict[str, str]:
    """Every one of the dashboard and of the alerts, by where it stands."""
    found = {}
    for panel in json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())["panels"]:
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "5m")
            found[f"{panel['title']} {target['refId']}"] = query
    for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            found[rule["alert"]] = rule["expr"]
    return found


@pytest.fixture(scope="module")
def both() -> tuple[Observed, dict[str, list[Any]]]:
    return asyncio.run(observe(queries()))


@pytest.fixture(scope="module")
def seen(both: tuple[Observed, dict[str, list[Any]]]) -> Observed:
    return both[0]


# -- counts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("streams_started_total", {"transport": "sse"}),
        ("streams_started_total", {"transport": "ws"}),
        ("streams_started_total", {"transport": "json"}),
        ("streams_ended_total", {"outcome": "completed", "provider": "Scripted", "model": "scripted"}),
        ("streams_ended_total", {"outcome": "completed", "provider": "Anthropic"}),
        ("streams_ended_total", {"outcome": "failed", "model": "scripted"}),
        ("streams_ended_total", {"outcome": "cancelled"}),
        ("streams_failed_total", {"code": "PROVIDER_ERROR", "model": "scripted"}),
        ("streams_failed_total", {"code": "TIMEOUT", "provider": "Google", "model": "other"}),
        ("tokens_total", {"direction": "output", "model": "scripted"}),
        ("attempts_failed_total", {"provider": "OpenAI", "blame": "provider"}),
        ("failovers_total", {"provider": "OpenAI"}),
        ("provider_timeouts_total", {"kind": "first_token", "provider": "Google"}),
        ("tool_calls_total", {"tool": "calculator", "outcome": "ok"}),
        ("sessions_closed_total", {"transport": "sse", "outcome": "read_to_end"}),
        ("sessions_closed_total", {"transport": "ws", "outcome": "read_to_end"}),
        ("drops_total", {"transport": "sse", "phase": "mid_stream", "cause": "client"}),
        ("resumes_total", {"transport": "sse", "outcome": "replayed"}),
        ("resumes_total", {"transport": "sse", "outcome": "NOT_FOUND"}),
        ("errors_total", {"code": "VALIDATION_ERROR"}),
        ("cancels_total", {"transport": "http"}),
        ("generations_stopped_total", {"why": "cancel"}),
        ("entries_replayed_total", {}),
        ("entries_delivered_total", {"transport": "sse"}),
        ("entries_appended_total", {}),
        ("live_connects_total", {}),
        ("writer_connects_total", {}),
        ("edge_redis_round_trips_total", {}),
        ("worker_redis_round_trips_total", {"kind": "append"}),
        ("worker_redis_round_trips_total", {"kind": "other"}),
        ("generations_max", {}),
        ("probe_age_seconds", {}),
        ("ttft_seconds_count", {"transport": "sse"}),
        ("ttft_seconds_count", {"transport": "ws"}),
        ("delivery_seconds_count", {"transport": "ws"}),
        ("token_gap_seconds_count", {"model": "scripted"}),
        ("probe_seconds_count", {}),
        ("append_seconds_count", {}),
        ("append_batch_entries_count", {}),
        ("provider_first_token_seconds_count", {"provider": "Anthropic"}),
        *(
            ("worker_stage_seconds_count", {"stage": stage})
            for stage in ("queue", "pickup", "failed", "provider", "append")
        ),
        *(("edge_stage_seconds_count", {"stage": stage}) for stage in ("admit", "edge")),
    ],
)
def test_what_happened_is_counted(seen: Observed, name: str, labels: dict[str, str]) -> None:
    assert seen.value(f"tokenrelay_{name}", **labels) > 0


@pytest.mark.parametrize(
    "name", ["sessions", "readers", "sessions_behind", "queue_depth", "generations", "buffered_bytes"]
)
def test_what_is_over_is_no_longer_now(seen: Observed, name: str) -> None:
    assert seen.value(f"tokenrelay_{name}") == 0


def test_the_batches_hold_what_was_appended(seen: Observed) -> None:
    assert seen.value("tokenrelay_append_batch_entries_sum") == seen.value("tokenrelay_entries_appended_total")
    trips = seen.value("tokenrelay_worker_redis_round_trips_total", kind="append")
    assert seen.value("tokenrelay_append_batch_entries_count") == trips


def test_every_metric_and_label_is_of_the_table(seen: Observed) -> None:
    for sample in seen.samples(seen.edge) + seen.samples(seen.worker):
        name = sample.name if sample.name in ROWS else sample.name.rsplit("_", 1)[0]
        row = ROWS[name]
        given = {label: value for label, value in sample.labels.items() if label != "le"}
        assert given.keys() == row.labels.keys(), sample
        assert not [value for label, value in given.items() if row.labels[label] and value not in row.labels[label]]


def test_no_label_is_what_a_caller_typed(seen: Observed) -> None:
    rows = catalogue.parse((ROOT / "protocol" / "models" / "catalogue.toml").read_text()).models
    models = {sample.labels["model"] for sample in seen.samples(seen.worker) if "model" in sample.labels}
    assert models <= {row.id for row in rows} | {"other", "none"}
    assert "other" in models
    for words in (TYPED, PROMPT, "typed-by-a-caller", "planted"):
        assert words not in seen.edge + seen.worker + seen.logs + json.dumps(seen.spans)


# -- where the time went -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["slow", "socket", "socket, msgpack"])
def test_the_time_is_put_where_it_was_spent(seen: Observed, how: str) -> None:
    told = seen.ends[how]["timing"]
    assert set(told) == {*timing.PARTS, "hops_ms", "ttft_ms"}
    assert told["provider_ms"] >= AT_LEAST_MS
    assert told["ttft_ms"] >= AT_LEAST_MS
    parts = sum(value for name, value in told.items() if name != "ttft_ms")
    assert parts >= told["ttft_ms"] - 0.1  # what is left of the whole is a part, `hops_ms`; each is rounded
    if told["hops_ms"] > 0:
        assert parts == pytest.approx(told["ttft_ms"], abs=0.1)


def test_the_json_of_an_answer_has_the_workers_part(seen: Observed) -> None:
    assert set(seen.ends["json"]["timing"]) == set(timing.PARTS) - {"admit_ms", "edge_ms"}
    assert seen.ends["json"]["timing"]["provider_ms"] >= AT_LEAST_MS


def test_one_who_reads_it_later_has_the_workers_part(seen: Observed) -> None:
    assert set(seen.ends["read again"]["timing"]) == set(timing.PARTS) - {"admit_ms", "edge_ms"}


def test_nobody_is_told_who_did_not_ask(seen: Observed) -> None:
    assert "timing" not in seen.ends["tool"]


def test_the_stages_add_up_to_the_metric(seen: Observed) -> None:
    assert seen.value("tokenrelay_worker_stage_seconds_sum", stage="provider") >= 4 * AT_LEAST_MS / 1000
    assert seen.value("tokenrelay_ttft_seconds_sum") >= 3 * AT_LEAST_MS / 1000
    taken = [
        seen.value("tokenrelay_worker_stage_seconds_count", stage=stage) for stage in ("pickup", "failed", "provider")
    ]
    assert len(set(taken)) == 1


# -- one trace, one id -------------------------------------------------------------------------------------------------


def test_one_trace_goes_from_the_caller_to_the_tool(seen: Observed) -> None:
    spans = [span for span in seen.spans if span["trace"] == TRACE]
    by_id = {span["id"]: span for span in spans}
    ways = set()
    for span in spans:
        above = by_id.get(span["parent"])
        ways.add((span["service"], span["name"], "the caller" if above is None else above["name"]))
        if above is None:
            assert span["parent"] == "00f067aa0ba902b7"
    assert ways == {
        ("tokenrelay-edge", "request", "the caller"),
        ("tokenrelay-worker", "queue wait", "request"),
        ("tokenrelay-worker", "generation", "request"),
        ("tokenrelay-worker", "provider call", "generation"),
        ("tokenrelay-worker", "tool call", "generation"),
    }


def test_a_span_takes_as_long_as_what_it_stands_for(seen: Observed) -> None:
    slow = [span for span in seen.spans if span["name"] == "provider call" and span["took_ns"] >= AT_LEAST_MS * 1e6]
    assert len(slow) >= 4


def test_the_id_goes_from_the_request_to_the_provider(seen: Observed) -> None:
    [path, headers] = next(item for item in seen.asked if item[1].get("x-request-id") == "from-the-caller")
    assert "messages" in path
    assert headers["traceparent"].split("-")[1] == TRACE
    calls = {span["id"] for span in seen.spans if span["name"] == "provider call"}
    assert headers["traceparent"].split("-")[2] in calls
    assert [item for item in seen.asked if "responses" in item[0] and item[1].get("x-client-request-id")]


def test_the_logs_of_both_have_the_id(seen: Observed) -> None:
    lines = [json.loads(line) for line in seen.logs.splitlines() if line.startswith("{")]
    [edge, *_] = [line for line in lines if line["event"] == "stream_started"]
    assert edge["request_id"]
    worker = [line for line in lines if line["event"] == "attempt_failed"]
    ids = {line["request_id"]: line["stream_id"] for line in lines if line["event"] == "stream_started"}
    assert worker
    ended = [line for line in lines if line["event"] == "generation_ended"]
    assert {line["request_id"]: line["stream_id"] for line in ended} == ids
    assert all(ids[line["request_id"]] == line["stream_id"] for line in worker)


def test_the_logs_say_at_night_whose_answer_it_was_and_how_it_went(seen: Observed) -> None:
    lines = [json.loads(line) for line in seen.logs.splitlines() if line.startswith("{")]
    started = [line for line in lines if line["event"] == "stream_started"]
    ended = [line for line in lines if line["event"] == "generation_ended"]
    for line in started:
        assert line["owner"]
        assert line["model"]
        assert line["transport"] in ("sse", "json", "ws")
    told = {line["stream_id"]: line for line in started}
    assert any(line["ttft_s"] is not None for line in ended)
    for line in ended:
        assert (line["owner"], line["transport"]) == tuple(
            told[line["stream_id"]][name] for name in ("owner", "transport")
        )
        assert line["duration_s"] >= (line["ttft_s"] or 0) >= 0
        assert "error_code" in line or {"finish_reason", "input_tokens", "output_tokens"} <= line.keys()


# -- what is deployed with it ------------------------------------------------------------------------------------------


def selectors(query: str) -> list[Any]:
    found: list[Any] = []

    def look(node: Any) -> bool:
        if isinstance(node, promql.VectorSelector):
            found.append(node)
        return True

    promql.walk(promql.parse(query), look)
    return found


@pytest.mark.parametrize("name", queries())
def test_a_query_names_what_a_live_scrape_has(seen: Observed, name: str) -> None:
    live: dict[str, set[str]] = {}
    for sample in seen.samples(seen.edge) + seen.samples(seen.worker):
        live.setdefault(sample.name, set()).update(sample.labels)
    found = selectors(queries()[name])
    assert found
    for selector in found:
        assert selector.name in live, selector.name
        asked = {matcher.name for matcher in selector.matchers.matchers}
        assert asked <= live[selector.name], selector.name
        row = ROWS.get(selector.name) or ROWS[selector.name.rsplit("_", 1)[0]]
        for matcher in selector.matchers.matchers:
            known = row.labels[matcher.name]
            assert not known or set(matcher.value.split("|")) <= set(known), matcher.value


@pytest.mark.parametrize("name", queries())
def test_prometheus_evaluates_it(both: tuple[Observed, dict[str, list[Any]]], name: str) -> None:
    seen, results = both
    require(seen.prometheus, "prometheus on PATH")
    is_condition = any(sign in queries()[name] for sign in (" > ", " == "))
    # An alert is quiet when all is well; a figure has a value.
    assert results[name] or is_condition


def test_the_metrics_pass_promtools_own_lint(seen: Observed) -> None:
    promtool = shutil.which("promtool")
    require(promtool, "promtool on PATH")
    for text in (seen.edge, seen.worker):
        done = subprocess.run(
            [str(promtool), "check", "metrics"], input=text, text=True, capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_promtool_takes_the_rules_and_the_scrape_config() -> None:
    promtool = shutil.which("promtool")
    require(promtool, "promtool on PATH")
    for kind, file in (("rules", "alerts.yml"), ("config", "prometheus.yml")):
        done = subprocess.run(
            [str(promtool), "check", kind, str(DEPLOY / "prometheus" / file)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
