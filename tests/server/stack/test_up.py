"""What `tokenrelay up` decides and says, without starting anything."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
from typing import Any

import pytest

from tokenrelay.server.stack import up
from tokenrelay.server.stack.up import Plan


def models(**available: bool) -> list[dict[str, Any]]:
    return [{"id": name, "available": is_available} for name, is_available in available.items()]


@pytest.mark.parametrize(
    ("listing", "any_will_do", "chosen"),
    [
        (models(scripted=True, local=True), False, "local"),
        (models(scripted=True, local=False), False, None),  # it may still be loading
        (models(scripted=True, local=False), True, "scripted"),
        (models(scripted=True), False, "scripted"),  # it will never come
        (models(gemini=False), True, None),
        (models(), True, None),
    ],
)
def test_the_model_it_waits_for(listing: list[dict[str, Any]], any_will_do: bool, chosen: str | None) -> None:
    assert up.choose_model(listing, any_will_do) == chosen


def test_why_the_local_model_is_not_there_is_what_the_edge_says() -> None:
    listing = [{"id": "local", "available": False, "unavailable_because": "no engine"}]
    assert up.why_not_local(listing) == "the local model: no engine"
    assert up.why_not_local([]) == "no model is available"


@pytest.mark.parametrize(
    ("lived_s", "pause", "next_pause"), [(0, 0.5, 0.5), (1, 4, 4), (1, 16, 10.0), (30, 10, 0.5), (3600, 64, 0.5)]
)
def test_the_pause_grows_to_a_bound_and_starts_over_after_a_steady_life(
    lived_s: float, pause: float, next_pause: float
) -> None:
    assert up.pause_after(lived_s, pause) == next_pause


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("::1", "http://[::1]:8000"),
        ("box.local", "http://box.local:8000"),
    ],
)
def test_the_url_is_one_that_this_machine_can_open(host: str, url: str) -> None:
    assert Plan(host=host).url == url


@pytest.mark.parametrize(
    ("port", "number", "parts"),
    [
        (8000, errno.EADDRINUSE, ["port 8000 is already in use", "--port 8001", "PORT=8001"]),
        (65535, errno.EADDRINUSE, ["port 65535 is already in use", "--port 8000"]),
        (80, errno.EACCES, ["port 80 is not for this user", "--port 8000"]),
        (8000, errno.EADDRNOTAVAIL, ["cannot listen on 127.0.0.1 port 8000"]),
    ],
)
def test_trouble_with_a_port_names_it_and_the_way_out(port: int, number: int, parts: list[str]) -> None:
    text = up.port_trouble(Plan(port=port), OSError(number, os.strerror(number)))
    assert all(part in text for part in parts)


def test_the_line_to_paste_is_one_line_with_a_body_that_parses() -> None:
    text = up.welcome(Plan(), "local", needs_key=False)
    [line] = [line for line in text.splitlines() if "curl" in line]
    body = json.loads(line.split(" -d ")[1].strip("'"))
    assert body["model"] == "local"
    assert body["stream"] is True
    assert "curl -N http://127.0.0.1:8000/api/chat " in line
    assert "Authorization" not in line


def test_a_key_is_asked_for_but_never_printed() -> None:
    assert '-H "Authorization: Bearer $KEY" ' in up.welcome(Plan(), "local", needs_key=True)


def test_children_know_where_to_meet_and_keep_what_was_set() -> None:
    ours = {"TOKENRELAY_SCRIPTED": "0", "PYTHONPATH": "/elsewhere", "OPENAI_API_KEY": "k"}
    theirs = up.child_environment(ours, Plan(port=8005), "unix:///tmp/x?db=0", 10.0)
    assert theirs["TOKENRELAY_SCRIPTED"] == "0"
    assert theirs["TOKENRELAY_LOG_LEVEL"] == "WARNING"
    assert theirs["TOKENRELAY_FINISH_S"] == "10"
    assert theirs["TOKENRELAY_PORT"] == "8005"
    assert theirs["TOKENRELAY_REDIS_URL"] == "unix:///tmp/x?db=0"
    assert theirs["PYTHONPATH"].endswith(os.pathsep + "/elsewhere")
    assert theirs["OPENAI_API_KEY"] == "k"


def test_the_scripted_model_is_on_unless_said_otherwise() -> None:
    assert up.child_environment({}, Plan(), "u", 10.0)["TOKENRELAY_SCRIPTED"] == "1"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to its parent")
@pytest.mark.parametrize(("processes", "sig"), [(1, signal.SIGKILL), (2, signal.SIGTERM)])
def test_a_role_with_processes_of_its_own_is_asked_to_end(processes: int, sig: signal.Signals) -> None:
    command = up.tied_role("workers", processes)
    assert str(int(sig)) in command[: command.index("-m")]
    assert command[-4:] == ["-m", "tokenrelay.workers", "--processes", str(processes)]


def test_endings_are_told_in_words() -> None:
    assert up.ending(3) == "ended with exit code 3"
    assert up.ending(-9) == "was killed by SIGKILL"


def test_it_stops_although_nobody_reads_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """`tokenrelay up | head`: the first word of a stop meets a closed pipe."""

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(text)

    monkeypatch.setattr(sys, "stdout", Closed())
    up.say("stopping")
