"""The terminal's edges: encodings, closed streams, long answers, hostile Markdown."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from rich.console import Console
from tokenrelay_client.events import Event
from tokenrelay_client.markdown import MAX_PIECE, Growing, document
from tokenrelay_client.views import Pretty

from tests.clients.service import PATIENCE_S, Service, answer_of, event, streams

SCRIPT = """
import sys
from tokenrelay_client import terminal
sys.exit(terminal.run(sys.argv[1], None, None, None, False, "hello", "sse"))
"""


@contextmanager
def serving(answer: bytes) -> Iterator[str]:
    """Its address; in a thread, since the terminal is another process."""
    ready, stop = threading.Event(), threading.Event()
    urls: list[str] = []

    async def serve() -> None:
        async with Service([streams(answer)]) as service:
            urls.append(service.url)
            ready.set()
            while not stop.is_set():
                await asyncio.sleep(0.02)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(PATIENCE_S)
        yield urls[0]
    finally:
        stop.set()
        thread.join(PATIENCE_S)


def chat(url: str, redirect: str = "", **env: str) -> subprocess.CompletedProcess[bytes]:
    command = ["sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, "-c", SCRIPT, url]
    return subprocess.run(
        command, input=b"", capture_output=True, env={**os.environ, **env}, timeout=2 * PATIENCE_S, check=False
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_what_an_encoding_does_not_have_is_replaced(encoding: str) -> None:
    with serving(answer_of("10 € ", "日本")) as url:
        done = chat(url, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert done.returncode == 0
    assert done.stdout == "10 € 日本".encode(encoding, "replace")
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("redirect", "said"),
    [
        (">&-", b"standard output is closed"),
        (">/dev/full", b"the answer cannot be written: [Errno 28]"),
        ("| true", b""),
        ("<&-", b""),
        ("2>&-", b""),
    ],
)
def test_closed_and_full_streams_end_in_words(redirect: str, said: bytes) -> None:
    with serving(answer_of(*["word "] * 6_000)) as url:
        done = chat(url, redirect)
    assert said in done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    if redirect in ("<&-", "2>&-"):
        assert (done.returncode, done.stdout) == (0, b"word " * 6_000)
    if redirect.startswith(">"):
        assert done.returncode == 1


def test_what_is_piped_in_need_not_be_text() -> None:
    with serving(answer_of("fine")) as url:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, url],
            input=b"\xff\xfe\x00",
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, b"fine")


# -- linear in the answer ----------------------------------------------------------------------------------------------


SHAPES: dict[str, Callable[[int], str]] = {
    "a list": lambda count: "".join(f"- item {number} with **bold** words\n" for number in range(count)),
    "a nested list": lambda count: "- top\n" + "".join(f"  - item {number} of it\n" for number in range(count)),
    "numbers": lambda count: "".join(f"{number}. item\n" for number in range(1, count)),
    "code": lambda count: "```python\n" + "".join(f"x = {number}\n" for number in range(count)) + "```\n",
    "a table": lambda count: "| a | b |\n|---|---|\n" + "".join(f"| {n} | words |\n" for n in range(count)),
    "a quote": lambda count: "".join(f"> line {number}\n" for number in range(count)),
    "one line": lambda count: "some words here " * count,
    "no space": lambda count: "x" * 20 * count,
    "brackets": lambda count: "[" * 20 * count,
    "a table of one bar": lambda count: "|" + "a|" * 500 + "\n|" + "-|" * 500 + "\n" + "|\n" * count,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_only_the_end_of_an_answer_is_read_again(shape: str) -> None:
    """What is open stays small, so each word costs as much as the one before; and no word is lost."""
    text, growing, pieces = SHAPES[shape](600), Growing(), list[str]()
    for start in range(0, len(text), 7):
        pieces += [piece.text for piece in growing.add(text[start : start + 7])]
        assert len(growing._text) <= 2 * MAX_PIECE + 100
    pieces += [piece.text for piece in growing.end()]
    given, shown = "".join(text.split()), "".join("".join(pieces).split())
    if shape in ("code", "a table"):  # a block that is cut begins anew with its first lines
        assert len(pieces) > 1
        assert len(shown) < 1.3 * len(given)
    else:
        assert shown == given


@pytest.mark.parametrize("shape", SHAPES)
def test_a_long_answer_is_drawn_whole(shape: str) -> None:
    text, out = SHAPES[shape](60), io.StringIO()
    screen = Console(file=out, force_terminal=True, width=80, height=24)
    with Pretty(screen) as view:
        for number, start in enumerate(range(0, len(text), 50)):
            view.take(Event(number, {"token": text[start : start + 50], "done": False}))
        view.tick()
    assert out.getvalue()


def test_thinking_is_a_line_while_it_lasts_and_a_word_after() -> None:
    out = io.StringIO()
    screen = Console(file=out, force_terminal=True, width=60, height=24)
    with Pretty(screen) as view:
        view.take(Event(1, {"token": "", "done": False, "status": "thinking"}))
        view.take(Event(2, {"token": "", "done": False, "thinking": "x" * 500 + " Let me\x1b see"}))
        view.tick()
        assert "Let me see" in out.getvalue()
        view.take(Event(3, {"token": "Yes.", "done": False}))
        out.truncate(0)
        view.tick()
        assert "Let me see" not in out.getvalue()
    with Pretty(screen) as view:
        view.take(Event(1, {"token": "", "done": False, "status": "thinking"}))
        view.take(Event(2, {"token": "", "done": True}))
    assert "thought for 0 s" in out.getvalue()


def test_thinking_does_not_go_where_the_answer_goes() -> None:
    thoughts = event(1, status="thinking") + event(2, thinking="Let me see")
    whole = thoughts + event(3, token="Yes.") + event(4, done=True, finish_reason="stop", output_tokens=1)
    with serving(whole) as url:
        done = chat(url)
    assert done.stdout == b"Yes."
    assert b"thinking" in done.stderr
    assert b"Let me see" not in done.stderr


def test_a_list_has_no_blank_lines_between_its_items() -> None:
    out = io.StringIO()
    Console(file=out, width=40).print(document("One:\n\n- a\n- b\n  - c\n- d\n\nTwo."))
    assert [line.strip() for line in out.getvalue().splitlines()] == [
        "One:",
        "",
        "• a",
        "• b",
        "• c",
        "• d",
        "",
        "Two.",
    ]


def test_the_screen_and_the_keys_have_their_turn_while_events_are_there() -> None:
    """A replay of many thousand events comes without a wait between two."""
    from tokenrelay_client import Client
    from tokenrelay_client.terminal import Chat

    ticks: list[float] = []

    class View:
        def take(self, event: Any) -> None:
            time.sleep(0.002)

        def fail(self, error: Any) -> None:
            raise error

    async def scene() -> None:
        async with (
            Service([streams(answer_of(*["w "] * 400))]) as service,
            Client(service.url, transport="sse") as client,
        ):
            stream = client.chat("hello")
            await stream.completion()  # all is there

            async def tick() -> None:
                while True:
                    ticks.append(time.monotonic())
                    await asyncio.sleep(0.01)

            task = asyncio.create_task(tick())
            await Chat(service.url, None, None, False, "sse")._read(stream, View())  # type: ignore[arg-type]
            task.cancel()

    asyncio.run(scene())
    assert len(ticks) > 3
