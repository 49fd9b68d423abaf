"""`tokenrelay chat` and the client under it, as processes against real servers."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from clients.python import Client
from tests.fleet import Fleet
from tests.wire import call, start, words

PATIENCE_S = 20.0


def command(url: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "server.cli", "chat", "--url", url, *options]


def chat(fleet: Fleet, *options: str, url: str | None = None) -> subprocess.CompletedProcess[str]:
    """One question through a pipe."""
    return subprocess.run(
        command(url or fleet.urls[0], *options),
        input="hello", capture_output=True, text=True, env=fleet.env, timeout=PATIENCE_S, check=False,
    )  # fmt: skip


class Terminal:
    """`tokenrelay chat` with a terminal round it; what it shows piles up in `screen`."""

    def __init__(self, fleet: Fleet, *options: str) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            command(fleet.urls[0], *options), stdin=slave, stdout=slave, stderr=slave,
            env={**fleet.env, "TERM": "dumb"},
            # Who started us in the background has SIGINT ignored, and so would our children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        os.close(slave)
        self.screen = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, text: str) -> None:
        """What has been shown up to and with `text` is taken off the screen."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.screen:
            assert time.monotonic() < deadline, self.screen
            if select.select([self._master], [], [], 0.1)[0]:
                self.screen += os.read(self._master, 65536).decode()
        self.screen = self.screen.partition(text)[2]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE_S)
        os.close(self._master)


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


def test_json_is_one_event_a_line(fleet: Fleet) -> None:
    done = chat(fleet, "--json", "--model", "scripted?tokens=3&interval_ms=1")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["id"] for event in events] == [None, 1, 2, 3, 4, 5]
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


# -- in a terminal ---------------------------------------------------------------------------------------------------


def test_control_c_stops_the_answer_and_then_control_d_leaves(fleet: Fleet) -> None:
    with closing(Terminal(fleet, "--model", "scripted?tokens=100000&interval_ms=20")) as terminal:
        terminal.wait_for("> ")
        terminal.type("hello\n")
        terminal.wait_for("w0 w1 w2 ")
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for("· stopped · ")
        stream_id = terminal.screen.split()[0] if terminal.screen.split() else ""
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.process.wait(PATIENCE_S) == 0
    _, listing, _ = asyncio.run(call("GET", f"{fleet.urls[0]}/api/streams"))
    states = {row["stream_id"]: row["state"] for row in listing["streams"]}
    assert states[stream_id] == "cancelled"


def test_control_c_at_the_prompt_leaves(fleet: Fleet) -> None:
    with closing(Terminal(fleet)) as terminal:
        terminal.wait_for("> ")
        # CPython writes the prompt before it begins to read: a signal in between waits for the next one.
        for _ in range(int(PATIENCE_S)):
            terminal.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                terminal.process.wait(1)
                break
        assert terminal.process.wait(PATIENCE_S) == 0


def test_the_prompt_comes_back_after_each_answer(fleet: Fleet) -> None:
    with closing(Terminal(fleet, "--model", "scripted?tokens=3&interval_ms=1")) as terminal:
        for _ in range(2):
            terminal.wait_for("> ")
            terminal.type("hello\n")
            terminal.wait_for("w0 w1 w2 ")
            terminal.wait_for("3 tokens")


# -- the client ------------------------------------------------------------------------------------------------------


def test_a_stop_before_the_server_has_answered_holds(fleet: Fleet) -> None:
    async def scene() -> None:
        async with Client(fleet.urls[0]) as client, asyncio.timeout(PATIENCE_S):
            stream = client.chat({"message": "hello", "model": "scripted?tokens=100000&interval_ms=20"})
            await stream.cancel()
            events = [data async for _, data in stream]
        assert events[-1]["finish_reason"] == "cancelled"

    asyncio.run(scene())


def test_a_lost_connection_is_told_and_the_text_is_whole(own_fleet: Fleet) -> None:
    async def scene() -> None:
        states: list[str] = []
        async with Client(own_fleet.urls[0]) as client, asyncio.timeout(PATIENCE_S * 2):
            body = {"message": "hello", "model": "scripted?tokens=200&interval_ms=20"}
            stream = client.chat(body)
            stream.subscribe(lambda: states.append(stream.state))
            async for event_id, _ in stream:
                if event_id == 10:
                    await asyncio.to_thread(own_fleet.restart_edge, 0)
        assert stream.text == words(200)
        assert "reconnecting" in states

    asyncio.run(scene())
