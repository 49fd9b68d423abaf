"""`tokenrelay chat` and the client under it, as processes against real servers."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from tests.end_to_end.screen import Terminal
from tests.end_to_end.screen import chat as command
from tests.fleet import STREAM_ID, Fleet
from tests.wire import call, start, words

PATIENCE_S = 20.0


def chat(fleet: Fleet, *options: str, url: str | None = None) -> subprocess.CompletedProcess[str]:
    """One question through a pipe."""
    return subprocess.run(
        command(url or fleet.urls[0], *options),
        input="hello", capture_output=True, text=True, env=fleet.env, timeout=PATIENCE_S, check=False,
    )  # fmt: skip


def dumb(fleet: Fleet, *options: str) -> Terminal:
    """In a terminal that cannot move its cursor; what can is in test_terminal_screen.py."""
    return Terminal(command(fleet.urls[0], *options), fleet.env, kind="dumb")


@pytest.fixture
def own_fleet() -> Iterator[Fleet]:
    """One edge, to be broken."""
    with Fleet(edges=1, workers=1) as started:
        yield started


# -- through a pipe --------------------------------------------------------------------------------------------------


def test_a_question_from_a_pipe_gives_the_answer_and_nothing_more(fleet: Fleet) -> None:
    done = chat(fleet, "--model", "scripted?tokens=50&interval_ms=1&tool_after=5")
    assert (done.returncode, done.stdout) == (0, words(50))
    assert "calculator gave '42'" in done.stderr


@pytest.mark.parametrize(("transport", "ids"), [("sse", [None, 1, 2, 3, 4, 5]), ("websocket", [1, 2, 3, 4, 5])])
def test_json_is_one_event_a_line(fleet: Fleet, transport: str, ids: list[int | None]) -> None:
    done = chat(fleet, "--json", "--transport", transport, "--model", "scripted?tokens=3&interval_ms=1")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["id"] for event in events] == ids
    assert len({event["stream_id"] for event in events}) == 1
    assert re.fullmatch(STREAM_ID, events[0]["stream_id"])
    assert "".join(event["token"] for event in events) == words(3)
    assert (done.returncode, events[-1]["done"]) == (0, True)


@pytest.mark.parametrize(
    ("model", "text", "said"),
    [
        ("no-such-model", "", "no model is called"),
        ("scripted?tokens=9&interval_ms=1&fail_after=4", words(4), "tokenrelay: "),
    ],
)
def test_a_failure_is_said_and_is_the_exit_code(fleet: Fleet, model: str, text: str, said: str) -> None:
    done = chat(fleet, "--model", model)
    assert (done.returncode, done.stdout) == (1, text)
    assert said in done.stderr


def test_a_server_that_is_not_there_is_given_up_soon(fleet: Fleet) -> None:
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: nobody else takes the port meanwhile
        done = chat(fleet, url=f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no answer" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_stream_that_is_there_is_read_from_its_start(fleet: Fleet) -> None:
    stream_id = asyncio.run(start(fleet.urls[0], "scripted?tokens=30&interval_ms=5"))
    done = chat(fleet, "--resume", stream_id, url=fleet.urls[1])
    assert (done.returncode, done.stdout) == (0, words(30))


def test_a_server_that_dies_in_mid_answer_costs_nothing(own_fleet: Fleet) -> None:
    running = subprocess.Popen(
        command(own_fleet.urls[0], "--model", "scripted?tokens=150&interval_ms=20"), env=own_fleet.env,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write(b"hello")
        running.stdin.close()
        running.stdin = None
        head = running.stdout.read(3)
        own_fleet.restart_edge(0)
        rest, notes = running.communicate(timeout=PATIENCE_S)
    finally:
        running.kill()
        running.wait(PATIENCE_S)
    assert (head + rest).decode() == words(150)
    assert notes.decode().count("reconnecting…") == 1
    assert running.returncode == 0


# -- in a terminal that can do little ----------------------------------------------------------------------------------


def test_control_c_stops_the_answer_and_then_control_d_leaves(fleet: Fleet) -> None:
    with dumb(fleet, "--model", "scripted?tokens=100000&interval_ms=20") as terminal:
        terminal.wait_for_prompt()
        terminal.type("hello\n")
        terminal.wait_for("w0 w1 w2 ")
        terminal.type("\x03")
        terminal.wait_for("· stopped · ")
        terminal.wait_for_prompt()
        stream_id = terminal.everything.partition("· stopped · ")[2].split()[0]
        terminal.type("\x04")
        assert terminal.wait_for_exit() == 0
    _, listing, _ = asyncio.run(call("GET", f"{fleet.urls[0]}/api/streams"))
    states = {row["stream_id"]: row["state"] for row in listing["streams"]}
    assert states[stream_id] == "cancelled"


def test_control_c_at_the_prompt_leaves(fleet: Fleet) -> None:
    with dumb(fleet) as terminal:
        terminal.wait_for_prompt()
        # CPython writes the prompt before it begins to read: a signal in between waits for the next one.
        for _ in range(int(PATIENCE_S)):
            terminal.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                terminal.process.wait(1)
                break
        assert terminal.wait_for_exit() == 0


def test_the_prompt_comes_back_after_each_answer(fleet: Fleet) -> None:
    with dumb(fleet, "--model", "scripted?tokens=3&interval_ms=1") as terminal:
        for _ in range(2):
            terminal.wait_for_prompt()
            terminal.type("hello\n")
            terminal.wait_for("w0 w1 w2\nscripted · 3 tokens")
            terminal.wait_for_prompt()
            terminal.clear()
