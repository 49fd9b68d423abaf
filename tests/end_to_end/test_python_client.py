"""The Python client against real servers: exact whatever breaks; the sync one from its own thread, under Ctrl-C too."""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenrelay_client import Choice, Refused, SyncClient, SyncStream, TransportName

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


def wait_for_some(stream: SyncStream, more_than: int = 3) -> None:
    next(number for number, _ in stream if number is not None and number > more_than)


def sockets(fleet: Fleet) -> int:
    """Open at the edge."""
    with urllib.request.urlopen(f"{fleet.urls[0]}/metrics", timeout=5) as answer:
        found = re.search(r'^tokenrelay_sessions\{transport="ws"\} (\d+)', answer.read().decode(), re.MULTILINE)
    return 0 if found is None else int(found[1])


def generations(locked: Fleet) -> int:
    asked = urllib.request.Request(f"{locked.urls[0]}/api/streams", headers={"Authorization": "Bearer sesame"})
    with urllib.request.urlopen(asked, timeout=5) as answer:
        return len(json.load(answer)["streams"])


def assert_exact(stream: SyncStream, count: int) -> None:
    end = stream.completion()
    numbers = [number for number, _ in stream if number is not None]
    assert numbers == sorted(set(numbers))
    assert "".join(data["token"] for _, data in stream) == stream.text == words(count)
    assert (end or {})["output_tokens"] == count


def states(client: SyncClient, stream: SyncStream) -> str:
    assert stream.stream_id is not None
    return client.stop(stream.stream_id)  # of a stream that is over this changes nothing


every = pytest.mark.parametrize("transport", ["sse", "websocket", "auto"])


@every
def test_an_answer_is_whole_for_each_loop_over_it(client: SyncClient, transport: Choice) -> None:
    stream = client.chat({"message": "hello", "model": "scripted?tokens=30&interval_ms=2"}, transport=transport)
    first, again = list(stream), list(stream)
    assert first == again == stream.events
    assert_exact(stream, 30)
    assert (stream.state, stream.error) == ("done", None)
    assert stream.transport == ("sse" if transport == "sse" else "websocket")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_edge_that_goes_in_mid_answer_costs_nothing(
    client: SyncClient, locked: Fleet, number: signal.Signals
) -> None:
    """Killed without a word, or told to leave (a drain); all transports at once."""
    before = generations(locked)
    choices: list[Choice] = ["sse", "websocket", "auto"]
    body = {"message": "hello", "model": "scripted?tokens=150&interval_ms=20"}
    streams = [client.chat(body, transport=choice) for choice in choices]
    for stream in streams:
        wait_for_some(stream)
    locked.kill_edge(0, number)
    until(lambda: all(stream.state == "reconnecting" for stream in streams), "the loss was not noticed")
    locked.restart_edge(0)
    for stream in streams:
        assert_exact(stream, 150)
    assert generations(locked) == before + 3


def test_the_transport_is_switched_in_mid_answer(client: SyncClient, locked: Fleet) -> None:
    before = generations(locked)
    stream = client.chat({"message": "hello", "model": "scripted?tokens=120&interval_ms=10"}, transport="sse")
    names: list[TransportName] = ["websocket", "sse", "websocket"]
    for name in names:
        wait_for_some(stream, stream.last_event_id + 3)
        stream.use(name)
        assert stream.transport == name
    assert not stream.is_over
    assert_exact(stream, 120)
    assert generations(locked) == before + 1


def test_streams_share_one_socket(locked: Fleet) -> None:
    before = sockets(locked)
    with SyncClient(locked.urls[0], "sesame", transport="websocket") as other:
        body = {"message": "hello", "model": "scripted?tokens=60&interval_ms=10"}
        streams = [other.chat(body) for _ in range(8)]
        for stream in streams:
            wait_for_some(stream)
        assert not any(stream.is_over for stream in streams)
        assert sockets(locked) == before + 1
        for stream in streams:
            assert_exact(stream, 60)
    until(lambda: sockets(locked) == before, "the socket stayed open")


@every
def test_a_stop_holds_also_before_the_server_has_answered(client: SyncClient, transport: Choice) -> None:
    body = {"message": "hello", "model": "scripted?tokens=100000&interval_ms=20"}
    stream = client.chat(body, transport=transport)
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


@every
def test_refusals_have_their_type(locked: Fleet, transport: Choice) -> None:
    def code_of(refused: SyncStream) -> tuple[str, int]:
        with pytest.raises(Refused) as caught:
            refused.completion()
        return caught.value.code, caught.value.status

    url = locked.urls[0]
    with (
        SyncClient(url, "sesame", transport=transport) as client,
        SyncClient(url, "guess", transport=transport) as stranger,
        SyncClient(url, "open", transport=transport) as other,
    ):
        stream = client.chat({"message": "hello", "model": "scripted?tokens=3&interval_ms=0"})
        stream.completion()
        assert stream.stream_id is not None
        assert code_of(stranger.chat("hi")) == ("UNAUTHORIZED", 401)
        assert code_of(other.resume(stream.stream_id)) == ("NOT_FOUND", 404)
        assert code_of(client.resume("0123456789abcdef")) == ("NOT_FOUND", 404)
        assert code_of(client.resume(stream.stream_id, 900)) == ("CURSOR_AHEAD", 409)
        assert code_of(client.chat({"message": "hi", "temperature": 9})) == ("VALIDATION_ERROR", 422)
        assert client.resume(stream.stream_id, stream.last_event_id).completion() is None


SCRIPT = """
import sys
from tokenrelay_client import SyncClient
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
        (3, words(40) + " sse\n"),
        (4, words(40) + "\n"),
    ],
)
def test_an_example_does_what_it_says(locked: Fleet, number: int, expected: str) -> None:
    code = examples()[number].replace("http://127.0.0.1:8000", locked.urls[0])
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, f"README example {number}", "exec"), {"__name__": "__main__"})
    assert out.getvalue() == expected


def test_the_examples_are_all_here() -> None:
    assert len(examples()) == 5
