"""`tokenrelay chat` as a person sees it: a real terminal, its screen read line by line."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from collections.abc import Iterator

import pytest
from tokenrelay_client import SyncClient

from tests.browser.fake_provider import FakeProvider
from tests.end_to_end.screen import PATIENCE_S, Terminal, chat
from tests.fleet import STREAM_ID, Fleet
from tests.wire import call, start, words

# What a model writes, hostile at the end: HTML is text, and nothing moves the cursor or renames the window.
ANSWER = """# Rivers

Three **long** ones, by [their lengths](https://rivers.example/):

| River | Length |
| :-- | --: |
| Nile | 6650 km |
| Amazon | 6400 km |

1. first
2. second
   - *inner*

```python
def length(river: str) -> int:
    return 6650
```

> so it is said

Use <br> and \x1b]0;pwned\x07\x1b[2Jnothing else.
"""
SEEN = """\
Rivers

Three long ones, by their lengths (https://rivers.example/):

 River    Length
 ───────────────
 Nile    6650 km
 Amazon  6400 km

 1 first
 2 second
    • inner

 def length(river: str) -> int:
     return 6650

▌ so it is said

Use <br> and ]0;pwned[2Jnothing else."""

CALLED = '⚙ calculator {"expression": "6*7"}\n⚙ calculator gave \'42\''


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(ANSWER) as started:
        yield started


@pytest.fixture(scope="module")
def fleet(provider: FakeProvider) -> Iterator[Fleet]:
    """One edge, to be broken."""
    with Fleet(edges=1, workers=1, env=provider.env) as started:
        yield started


def open_chat(fleet: Fleet, *options: str, columns: int = 80) -> Terminal:
    return Terminal(chat(fleet.urls[0], *options), fleet.env, columns=columns)


def ids_seen(terminal: Terminal) -> list[str]:
    """Of the streams whose answers are on the screen or above it."""
    return re.findall(rf"(?<![0-9a-f]){STREAM_ID}(?![0-9a-f])", terminal.everything)


def wait_for_state(fleet: Fleet, stream_id: str, state: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        _, listing, _ = asyncio.run(call("GET", f"{fleet.urls[0]}/api/streams"))
        states = {row["stream_id"]: row["state"] for row in listing["streams"]}
        if states.get(stream_id) == state:
            return
        assert time.monotonic() < deadline, states


def joined(text: str) -> str:
    """Lines that were broken between words, as one."""
    return " ".join(text.split())


# -- how it looks ------------------------------------------------------------------------------------------------------


def test_markdown_is_drawn_with_one_blank_line_between_its_blocks(fleet: Fleet) -> None:
    with open_chat(fleet, "--model", "gpt-4-turbo", "rivers?") as terminal:
        assert terminal.wait_for_exit() == 0
        answer, _, facts = terminal.everything.rpartition("\n")
        assert answer == SEEN
        assert re.fullmatch(rf"gpt-6\.2-sol · \d+ tokens · \d+\.\d s · {STREAM_ID}", facts)
        assert "bold" in terminal.style("Rivers")
        assert "bold" in terminal.style("long")
        assert "bold" not in terminal.style("Three")
        assert "italics" in terminal.style("inner")
        assert terminal.style("def") != terminal.style("length(river")
        assert (terminal.title, terminal.is_as_it_was) == ("", True)


def test_it_is_drawn_while_it_is_written(fleet: Fleet, provider: FakeProvider) -> None:
    provider.pause_s = 0.02
    try:
        with open_chat(fleet, "--model", "gpt-4-turbo", "rivers?") as terminal:
            terminal.wait_for("Nile")  # a row of a table that is not whole
            assert "────" in terminal.screen
            assert "so it is said" not in terminal.screen
            assert re.search(r"writing · \d s · Ctrl-C stops · gpt-4-turbo$", terminal.screen)
            assert terminal.wait_for_exit() == 0
            assert SEEN in terminal.everything
            assert "writing" not in terminal.everything
    finally:
        provider.pause_s = 0.0


def test_who_answers_and_what_is_called_stand_where_they_happened(fleet: Fleet) -> None:
    with open_chat(fleet, "Write a table of rivers") as terminal:
        assert terminal.wait_for_exit() == 0
        chosen, _, rest = terminal.everything.partition("\n")
        assert re.match(r"NeuroSwitch chose \S+: asks for ", chosen)
        assert rest.startswith(f"\n{SEEN}\n")
    with open_chat(fleet, "--model", "scripted?tokens=6&interval_ms=1&tool_after=3", "6*7?") as terminal:
        assert terminal.wait_for_exit() == 0
        said, _, _ = terminal.everything.rpartition("\n")
        assert said == f"w0 w1 w2\n\n{CALLED}\n\nw3 w4 w5"


@pytest.mark.parametrize("columns", [24, 80])
def test_a_long_answer_scrolls_and_no_word_is_lost_or_twice(fleet: Fleet, columns: int) -> None:
    model = "scripted?tokens=900&interval_ms=5"  # seconds: it must still be writing when we look
    with open_chat(fleet, "--model", model, "go on", columns=columns) as terminal:
        terminal.wait_for("w300 ")
        status = terminal.screen.splitlines()[-1]
        assert "writing · " in status
        assert len(status) < columns
        assert len(terminal.screen.splitlines()) <= 24
        assert terminal.wait_for_exit() == 0
        answer, _, _ = joined(terminal.everything).partition(" scripted · ")
        assert answer == words(900).strip()


def test_what_is_typed_meanwhile_is_not_shown_and_asked_next(fleet: Fleet) -> None:
    with open_chat(fleet, "--model", "scripted?tokens=60&interval_ms=15") as terminal:
        terminal.wait_for_prompt()
        terminal.type("one\n")
        terminal.wait_for("w9 ")
        terminal.type("/model scripted?tokens=2&interval_ms=1\ntwo\n")
        terminal.wait_for(" 60 tokens")
        answer = terminal.everything.partition("> one\n")[2].partition(" scripted · ")[0]
        assert joined(answer).startswith(words(60).strip())
        terminal.wait_for(" 2 tokens")
        assert "> two\nw0 w1\n" in terminal.screen
        terminal.wait_for_prompt()
        terminal.type("\x04")
        assert terminal.wait_for_exit() == 0
        assert terminal.is_as_it_was


# -- stopping ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("json_output", [False, True])
def test_control_c_stops_the_generation_and_is_the_exit_code(fleet: Fleet, json_output: bool) -> None:
    options = ["--json"] if json_output else []
    model = "scripted?tokens=100000&interval_ms=20"
    with open_chat(fleet, *options, "--model", model, "go on", columns=2_000) as terminal:
        terminal.wait_for('"token": "w3 "' if json_output else "w3 ")
        terminal.type("\x03")
        assert terminal.wait_for_exit() == 130
        if json_output:
            lines = [line for line in terminal.everything.replace("^C", "").splitlines() if line.startswith("{")]
            events = [json.loads(line) for line in lines]
            assert (events[-1]["done"], events[-1]["finish_reason"]) == (True, "cancelled")
            assert words(100_000).startswith("".join(event["token"] for event in events))
        else:
            assert "· stopped · " in terminal.screen
        wait_for_state(fleet, ids_seen(terminal)[-1], "cancelled")
        assert terminal.is_as_it_was


def test_a_second_control_c_leaves_an_answer_that_cannot_be_stopped_now(fleet: Fleet) -> None:
    with open_chat(fleet, "--model", "scripted?tokens=100000&interval_ms=20", "go on") as terminal:
        terminal.wait_for("w3 ")
        fleet.edges[0].send_signal(signal.SIGSTOP)
        try:
            terminal.type("\x03")
            terminal.wait_for("stopping… · ")
            assert "Ctrl-C again leaves" in terminal.screen
            terminal.type("\x03")
            assert terminal.wait_for_exit() == 130
        finally:
            fleet.edges[0].send_signal(signal.SIGCONT)
        [stream_id] = ids_seen(terminal)
        assert f"left while it was written: --resume {stream_id}, or /stop" in joined(terminal.screen)
    with SyncClient(fleet.urls[0]) as client:
        client.stop(stream_id)


# -- a server that dies ------------------------------------------------------------------------------------------------


def test_an_edge_that_dies_in_mid_answer_costs_no_word(fleet: Fleet) -> None:
    """Over both transports at once."""
    options = ["--model", "scripted?tokens=120&interval_ms=20&tool_after=9", "go on", "--transport"]
    with open_chat(fleet, *options, "sse") as one, open_chat(fleet, *options, "websocket") as other:
        for terminal in (one, other):
            terminal.wait_for("w12 ")
        fleet.kill_edge(0)
        for terminal in (one, other):
            terminal.wait_for("connection lost, reconnecting… · ")
        fleet.restart_edge(0)
        for terminal in (one, other):
            assert terminal.wait_for_exit() == 0
            before, called, after = terminal.everything.partition(CALLED)
            assert called
            assert joined(before) == words(9).strip()
            assert joined(after.partition("\nscripted · ")[0]) == words(120).removeprefix(words(9)).strip()
            assert "reconnecting" not in terminal.everything


# -- a conversation ----------------------------------------------------------------------------------------------------


def test_each_command_does_what_help_says(fleet: Fleet) -> None:
    with open_chat(fleet, "--model", "scripted?tokens=3&interval_ms=1") as terminal:
        terminal.wait_for_prompt()

        def say(line: str) -> str:
            """What has been written below it when the prompt is back."""
            before = terminal.everything.count("\n> ")
            terminal.type(f"{line}\n")
            terminal.wait_until(lambda: terminal.everything.count("\n> ") > before, f"{line}, and then the prompt")
            terminal.wait_for_prompt()
            return terminal.everything.rpartition(f"> {line}\n")[2].removesuffix("\n>").strip()

        listed = re.findall(r"^(/\w+)", say("/help"), re.MULTILINE)
        assert listed == ["/help", "/model", "/models", "/new", "/history", "/resume", "/stop", "/quit"]
        assert say("/history") == "nothing has been said yet"
        assert say("one").startswith("w0 w1 w2\nscripted · 3 tokens")
        assert re.search(r"^claude-3-opus +Anthropic +ANTHROPIC_API_KEY is not set$", say("/models"), re.MULTILINE)
        assert say("/model gpt-4-turbo") == "the next question goes to gpt-4-turbo"
        assert SEEN in say("//two")
        first, second = ids_seen(terminal)
        history = say("/history")
        assert history == f"> one\nw0 w1 w2\n{first}\n\n> /two\n{SEEN}\n{second}"
        assert say("/model") == "the next question goes to NeuroSwitch"
        assert say("/new") == "a new conversation"
        assert say("/history") == "nothing has been said yet"
        assert say(f"/resume {first}").startswith("w0 w1 w2\nscripted · 3 tokens")
        assert say("/resume nothing-like-it").startswith("tokenrelay: ")
        assert say("/stop") == f"{first} completed"
        left = asyncio.run(start(fleet.urls[0], "scripted?tokens=100000&interval_ms=20"))
        assert say(f"/stop {left}") == f"{left} cancelling"
        wait_for_state(fleet, left, "cancelled")
        assert say("/what") == "/what: /help says what can be done here"
        terminal.type("/quit\n")
        assert terminal.wait_for_exit() == 0


def test_a_stream_that_is_there_is_read_and_then_the_conversation_begins(fleet: Fleet) -> None:
    stream_id = asyncio.run(start(fleet.urls[0], "scripted?tokens=40&interval_ms=10"))
    with open_chat(fleet, "--resume", stream_id) as terminal:
        terminal.wait_for_prompt()
        assert joined(terminal.everything).startswith(f"{words(40)}scripted · 40 tokens")
        assert stream_id in terminal.screen
        terminal.type("\x04")
        assert terminal.wait_for_exit() == 0
    with open_chat(fleet, "--resume", "nothing-like-it") as terminal:
        assert terminal.wait_for_exit() == 1
        assert terminal.screen.startswith("tokenrelay: ")


def test_an_address_that_is_none_is_said(fleet: Fleet) -> None:
    with Terminal(chat("localhost:8000", "hello"), fleet.env) as terminal:
        assert terminal.wait_for_exit() == 1
        assert "the server's address is http://… or https://…, got 'localhost:8000'" in joined(terminal.screen)
        assert "Traceback" not in terminal.everything
