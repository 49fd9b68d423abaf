"""The recipes that are programs, each run as it stands; the connection is cut in the middle of the answer."""

from __future__ import annotations

import json

import pytest

from tests.fleet import Fleet
from tests.network import Proxy
from tests.recipes.book import recipe
from tests.recipes.run import events_of, newest, running, snapshot
from tests.wire import words

ANSWER = words(40)


def test_curl_prints_the_events(fleet: Fleet) -> None:
    with running("sh", recipe("curl", "sh"), fleet.urls[0]) as program:
        events = events_of(program.rest())
    assert [event.get("status") for event in events[:2]] == ["queued", "started"]
    assert "".join(event["token"] for event in events) == ANSWER
    assert (events[-1]["done"], events[-1]["finish_reason"]) == (True, "stop")


def test_a_shell_script_has_every_event_once(network: Proxy, fleet: Fleet) -> None:
    with running("sh", recipe("curl", "sh", 1), network.url) as program:
        program.wait_for('"w5 "')
        network.reset()
        events = [json.loads(line) for line in program.rest().splitlines()]
    assert "".join(event["token"] for event in events) == ANSWER
    assert [event["done"] for event in events].count(True) == 1
    assert network.count > 1


def test_a_shell_script_looks_at_a_stream_and_stops_it(fleet: Fleet) -> None:
    with running("sh", recipe("curl", "sh", 2), fleet.urls[0]) as program:
        before, answer, end = program.rest().splitlines()
    seen, cancelled, last = json.loads(before), json.loads(answer), json.loads(end.removeprefix("data: "))
    assert seen["state"] == "running"
    assert words(900).startswith(seen["text"])
    assert seen["text"].startswith(words(3))
    assert cancelled["stream_id"] == seen["stream_id"] == last["stream_id"] == newest(fleet)
    assert last["finish_reason"] == "cancelled"
    assert snapshot(fleet, seen["stream_id"])["state"] == "cancelled"


@pytest.mark.parametrize(
    ("heading", "language", "number", "expected"),
    [
        ("fetch", "js", 0, ANSWER),
        ("Python", "python", 0, ANSWER),
        ("Python", "python", 1, ANSWER),
        ("WebSocket with msgpack", "python", 0, ANSWER),
    ],
    ids=["fetch", "await", "sync", "msgpack"],
)
def test_a_program_has_every_token_once(
    network: Proxy, fleet: Fleet, heading: str, language: str, number: int, expected: str
) -> None:
    with running(language, recipe(heading, language, number), network.url) as program:
        program.wait_for("w5 ")
        network.reset()
        assert program.rest() == expected
    assert network.count > 1
    assert snapshot(fleet, newest(fleet))["text"] == expected  # one generation, and it is this one
