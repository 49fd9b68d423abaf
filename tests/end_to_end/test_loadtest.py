"""The load test against real processes, headless and small: every scenario is green, and a broken resume turns red."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.fleet import ROOT, Fleet, one_server, until
from tests.needs import require
from tokenrelay.loadtest.fleet import free_port
from tokenrelay.loadtest.scenarios import SCENARIOS
from tokenrelay.protocol.store import keys

SMALL = ("--rate", "10", "--duration", "3")
MODELS = {"slow": "scripted?tokens=400&interval_ms=2", "storm": "scripted?tokens=350&interval_ms=20"}
CURSOR = re.compile(rb"(?i)(last-event-id: )(\d+)")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    require(find_spec("locust"), "locust")
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_is_green(fleet: Fleet, tmp_path: Path, name: str) -> None:
    figures, report = tmp_path / "figures.json", tmp_path / "report.html"
    model = MODELS.get(name, "scripted?tokens=60&interval_ms=20")
    given = ("--host", fleet.urls[0], "--model", model, "--json", str(figures), "--report", str(report))
    done = run("loadtest", name, *SMALL, *given)
    assert done.returncode == 0, done.stdout + done.stderr
    summary: dict[str, Any] = json.loads(figures.read_text())
    assert (summary["lost"], summary["repeated"], summary["failed"]) == (0, 0, 0)
    assert summary["streams"] > 0
    assert summary["ttft_ms"]["count"] > 0 or name == "late"
    assert summary["stages"]["provider_ms"]["count"] > 0
    if name in ("resume", "late"):
        assert summary["resume_ms"]["count"] > 0
    assert report.read_text().startswith("<!doctype html>")
    assert "open  " in done.stdout  # progress


@pytest.mark.parametrize(("step", "count"), [(-1, "repeated"), (1, "lost")])
def test_a_broken_resume_turns_red(fleet: Fleet, tmp_path: Path, step: int, count: str) -> None:
    figures = tmp_path / "figures.json"
    with shifted_cursors(fleet.urls[0], step) as url:
        given = ("--host", url, "--model", "scripted?tokens=60&interval_ms=20", "--json", str(figures))
        done = run("loadtest", "resume", *SMALL, *given)
    assert done.returncode == 1, done.stdout + done.stderr
    assert json.loads(figures.read_text())[count] > 0
    assert f"{count} tokens (Resumer)" in done.stdout


def test_without_a_host_it_starts_a_fleet(tmp_path: Path) -> None:
    done = run("loadtest", "steady", "--rate", "5", "--duration", "1", "--model", "scripted?tokens=10&interval_ms=5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "starting a fleet" in done.stdout


@pytest.mark.parametrize("host", ["http://127.0.0.1:1", "ftp://127.0.0.1", "http://"])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    done = run("loadtest", "steady", "--host", host)
    assert done.returncode == 2
    assert "error:" in done.stderr
    assert "Traceback" not in done.stderr


def test_plain_locust_takes_the_same_file(fleet: Fleet) -> None:
    given = ("--headless", "--scenario", "steady", "--rate", "6", "--duration", "2", "--host", fleet.urls[0])
    done = run("locust", "-f", "loadtest/locustfile.py", *given, "--model", "scripted?tokens=20&interval_ms=5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "TTFT" in done.stdout + done.stderr
    assert "lost 0  repeated 0  failed 0" in done.stderr


@pytest.mark.parametrize(
    ("given", "code", "says"),
    [
        (["--rate", "-1"], 2, "a number above 0"),
        (["--sources", "0"], 2, "a whole number above 0"),
        (["--model", "scripted?tokens=x"], 2, "tokens is an integer"),
        (["--host", "ftp://127.0.0.1"], 1, "locustfile: error: "),
        (["--host", "http://127.0.0.1:1", "--duration", "1"], 1, "failed "),
    ],
)
def test_plain_locust_refuses_what_cannot_be(given: list[str], code: int, says: str) -> None:
    done = run("locust", "-f", "loadtest/locustfile.py", "--headless", *given)
    assert (done.returncode, says in done.stderr, "Traceback" in done.stderr) == (code, True, False), done.stderr


class Generators:
    """Two, of one master."""

    def __init__(self, url: str, *options: str) -> None:
        self._port = str(free_port())
        self._common = [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--host", url, "--sources", "2"]
        self._common += options

    def __enter__(self) -> Generators:
        command = [*self._common, "--worker", "--master-port", self._port]
        self.both = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) for _ in range(2)]
        return self

    def master(self) -> subprocess.Popen[str]:
        command = [*self._common, "--master", "--headless", "--expect-workers", "2", "--master-bind-port", self._port]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def __exit__(self, *_: object) -> None:
        for generator in self.both:
            generator.kill()
            generator.wait()


def test_two_generators_and_a_master_are_one_load(fleet: Fleet) -> None:
    """Distributed locust: the master's figures are the sum, and both generators did some of it."""
    require(find_spec("locust"), "locust")
    given = ("--scenario", "resume", "--rate", "16", "--duration", "2", "--model", "scripted?tokens=20&interval_ms=5")
    with Generators(fleet.urls[0], *given) as generators, generators.master() as master:
        _, said = master.communicate(timeout=100)
        assert master.returncode == 0, said
        assert [generator.wait(30) for generator in generators.both] == [0, 0]
    total = re.search(r"streams (\d+)  tokens (\d+)  lost 0  repeated 0  failed 0", said)
    assert total is not None, said
    assert int(total[1]) >= 4
    assert int(total[2]) == 20 * int(total[1])
    assert "2 generators" in said


def streams(fleet: Fleet) -> int:
    with fleet.redis() as client:
        return int(client.zcard(keys.owner("anonymous")))


@one_server("it counts the keys")
def test_a_generator_that_dies_turns_the_whole_red(fleet: Fleet) -> None:
    require(find_spec("locust"), "locust")
    given = ("--scenario", "steady", "--rate", "16", "--duration", "12", "--model", "scripted?tokens=20&interval_ms=5")
    with Generators(fleet.urls[0], *given) as generators, generators.master() as master:
        before = streams(fleet)
        until(lambda: streams(fleet) > before + 60, "no load came")  # four seconds of it: both have reported
        generators.both[0].kill()
        _, said = master.communicate(timeout=100)
    assert master.returncode == 1, said
    assert "1 x a generator was lost or stopped in mid-run" in said


@contextmanager
def shifted_cursors(url: str, step: int) -> Iterator[str]:
    """An edge's address behind which every SSE cursor is off by so much: what a wrong resume looks like."""
    parts = urlsplit(url)
    upstream = (str(parts.hostname), int(parts.port or 80))
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)

    def shift(data: bytes) -> bytes:
        return CURSOR.sub(lambda found: found[1] + str(max(0, int(found[2]) + step)).encode(), data)

    def carry(source: socket.socket, sink: socket.socket, upwards: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(shift(data) if upwards else data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(upstream)
                opened.extend((client, server))
                for ends in ((client, server, True), (server, client, False)):
                    threading.Thread(target=carry, args=ends, daemon=True).start()

    opened: list[socket.socket] = []
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
        for end in opened:
            end.close()
