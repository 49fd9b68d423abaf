"""A stream whose connection lives and whose tokens do not come is late, and so has failed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tokenrelay.loadtest.client import Client, Run
from tokenrelay.loadtest.wire import Target, WireError

MODEL = "scripted?tokens=3&interval_ms=0"


class Connection:
    """Each read takes a second, and brings what the script says; then heartbeats without end."""

    stream_id = "s"
    has_closed = False

    def __init__(self, clock: list[float], *events: Any) -> None:
        self._clock = clock
        self._events = list(events)
        self.sent_at = clock[0]

    def events(self) -> list[Any]:
        self._clock[0] += 1
        return [self._events.pop(0)] if self._events else []


@pytest.mark.parametrize("events", [[], [(2, {"token": "w0 "})]])
def test_heartbeats_do_not_hide_that_no_token_comes(monkeypatch: pytest.MonkeyPatch, events: list[Any]) -> None:
    clock = [100.0]
    monkeypatch.setattr("tokenrelay.loadtest.client.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    run = Run(Target("http://127.0.0.1:1"), MODEL, late_s=10)
    reader = Client(run, "SseChat")
    connection = Connection(clock, *events)
    monkeypatch.setattr(reader, "_connection", connection)
    monkeypatch.setattr(reader, "_due_from", connection.sent_at)
    with pytest.raises(WireError, match="late"):
        reader.read()
    assert clock[0] == 111 + len(events)
