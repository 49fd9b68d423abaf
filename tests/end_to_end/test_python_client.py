"""The Python client against real servers: exact whatever breaks; the sync one from its own thread, under Ctrl-C too."""

from __future__ import annotations

import contextlib
import io
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.python import Refused, SyncClient, SyncStream
from tests.fleet import Fleet, until
from tests.wire import words

PATIENCE_S = 30.0
README = Path(__file__).resolve().parents[2] / "clients" / "python" / "README.md"


@pytest.fixture(scope="module")
def locked() -> Iterator[Fleet]:
    """One edge, to be broken, with a key."""
    with Fleet(edges=1, workers=1, env={"TOKENRELAY_API_KEYS": "me:sesame,you:open"}) as started:
        yield started


@pytest.fixture
def client(locked: Fleet) -> Iterator[SyncClient]:
    with SyncClient(locked.urls[0], "sesame") as opened:
        yield opened


def wait_for_some(stream: SyncStream) -> None:
    next(number for number, _ in stream if number == 4)


def states(client: SyncClient, stream: SyncStream) -> str:
    assert stream.stream_id is not None
    return client.stop(stream.stream_id)  # of a stream that is over this changes nothing


def test_an_answer_is_whole_for_each_loop_over_it(client: SyncClient) -> None:
    stream = client.chat({"message": "hello", "model": "scripted?tokens=30&interval_ms=2"})
    first, again = list(stream), list(stream)
    assert first == again == stream.events
    assert "".join(data["token"] for _, data in first) == stream.text == words(30)
    assert (stream.completion() or {})["output_tokens"] == 30
    assert (stream.state, stream.error) == ("done", None)


def test_an_edge_that_dies_in_mid_answer_costs_nothing(client: SyncClient, locked: Fleet) -> None:
    stream = client.chat({"message": "hello", "model": "scripted?tokens=150&interval_ms=20"})
    wait_for_some(stream)
    locked.kill_edge(0)
    until(lambda: stream.state == "reconnecting", "the loss was not noticed")
    locked.restart_edge(0)
    numbers = [number for number, _ in stream if number is not None]
    assert numbers == sorted(set(numbers))
    assert stream.text == words(150)


def test_a_stop_holds_also_before_the_server_has_answered(client: SyncClient) -> None:
    stream = client.chat({"message": "hello", "model": "scripted?tokens=100000&interval_ms=20"})
    stream.cancel()
    assert (stream.completion() or {})["finish_reason"] == "cancelled"
    assert states(client, stream) == "cancelled"


def test_leaving_the_block_cancels_nothing(client: SyncClient, locked: Fleet) -> None:
    with SyncClient(locked.urls[0], "sesame") as other:
        stream = other.chat({"message": "hello", "model": "scripted?tokens=60&interval_ms=20"})
        wait_for_some(stream)
    assert stream.state == "detached"
    assert stream.stream_id is not None
    rest = client.resume(stream.stream_id, stream.last_event_id)
    rest.completion()
    assert stream.text + rest.text == words(60)


def test_threads_share_a_client(client: SyncClient) -> None:
    streams = [client.chat({"message": "hi", "model": f"scripted?tokens={20 + n}&interval_ms=5"}) for n in range(8)]
    threads = [threading.Thread(target=stream.completion) for stream in streams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert [stream.text for stream in streams] == [words(20 + number) for number in range(8)]


def test_refusals_have_their_type(client: SyncClient, locked: Fleet) -> None:
    stream = client.chat({"message": "hello", "model": "scripted?tokens=3&interval_ms=0"})
    stream.completion()
    assert stream.stream_id is not None

    def code_of(refused: SyncStream) -> tuple[str, int]:
        with pytest.raises(Refused) as caught:
            refused.completion()
        return caught.value.code, caught.value.status

    with SyncClient(locked.urls[0], "guess") as stranger, SyncClient(locked.urls[0], "open") as other:
        assert code_of(stranger.chat("hi")) == ("UNAUTHORIZED", 401)
        assert code_of(other.resume(stream.stream_id)) == ("NOT_FOUND", 404)
    assert code_of(client.resume("0123456789abcdef")) == ("NOT_FOUND", 404)
    assert code_of(client.resume(stream.stream_id, 900)) == ("CURSOR_AHEAD", 409)
    assert code_of(client.chat({"message": "hi", "temperature": 9})) == ("VALIDATION_ERROR", 422)
    assert client.resume(stream.stream_id, stream.last_event_id).completion() is None


SCRIPT = """
import sys
from clients.python import SyncClient
with SyncClient(sys.argv[1], "sesame") as client:
    stream = client.chat({"message": "hello", "model": "scripted?tokens=100000&interval_ms=20"})
    try:
        for number, _ in stream:
            if number == 3:
                print("begun", flush=True)
    except KeyboardInterrupt:
        if sys.argv[2] == "leave":
            raise
        stream.cancel()
        end = stream.completion()
        print(end["finish_reason"], "".join(data["token"] for _, data in stream) == stream.text)
"""


@pytest.mark.parametrize(("how", "said"), [("cancel", "cancelled True\n"), ("leave", "")])
def test_control_c_reaches_a_loop(locked: Fleet, how: str, said: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, locked.urls[0], how], env=locked.env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # Who started us in the background has SIGINT ignored, and so would our children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as running:  # fmt: skip
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == "begun\n"
            running.send_signal(signal.SIGINT)
            out, err = running.communicate(timeout=PATIENCE_S)
        finally:
            running.kill()
    assert out == said
    assert ("KeyboardInterrupt" in err) == (how == "leave")
    assert running.returncode == (0 if how == "cancel" else -signal.SIGINT)


# -- README's examples -------------------------------------------------------------------------------------------------


def examples() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, words(40) + "\nstop after 40 tokens\n"),
        (1, words(40) + "\nstop after 40 tokens\n"),
        (2, f"PROVIDER_ERROR, try again: True; so far: {words(3)!r}\n"),
        (3, words(40) + "\n"),
    ],
)
def test_an_example_does_what_it_says(locked: Fleet, number: int, expected: str) -> None:
    code = examples()[number].replace("http://127.0.0.1:8000", locked.urls[0])
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, f"README example {number}", "exec"), {"__name__": "__main__"})
    assert out.getvalue() == expected


def test_the_examples_are_all_here() -> None:
    assert len(examples()) == 4
