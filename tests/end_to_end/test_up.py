"""`tokenrelay up` as real processes: how it starts, what it mends, and that it leaves nothing behind.

The edge and the worker are stand-ins here; that the real ones come up is told elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

WAIT_S = 30.0
ROOT = Path(__file__).resolve().parent.parent.parent

# `up`, with its two commands exchanged for the stand-ins.
DRIVER = """
import sys
from tokenrelay.server.stack import up
up.role_command = lambda package, *_: [sys.executable, sys.argv[1], package]
sys.exit(up.main(up.Plan(port=0)))
"""

STAND_IN = """
import http.server, json, os, signal, sys, time

role, way = sys.argv[1], os.environ.get("WAY", "")
if way == f"{role} ends":
    sys.exit(3)
signal.signal(signal.SIGTERM, signal.SIG_IGN if way == f"{role} is stubborn" else lambda *_: sys.exit(0))
deaf = os.path.join(os.path.dirname(__file__), "deaf")  # the stubborn worker ignores SIGTERM from here on
if role == "workers":
    open(deaf, "w").close()
    time.sleep(600)
while way == "workers is stubborn" and not os.path.exists(deaf):
    time.sleep(0.01)

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"models": [{"id": "local", "available": True}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

address = (os.environ["TOKENRELAY_HOST"], int(os.environ["TOKENRELAY_PORT"]))
http.server.ThreadingHTTPServer(address, Answer).serve_forever()
"""


class Up:
    """One running `up` and what it has printed."""

    def __init__(self, folder: Path, way: str) -> None:
        self.folder = folder
        self.temporaries = folder / "tmp"
        self.temporaries.mkdir()
        (folder / "stand_in.py").write_text(STAND_IN)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TOKENRELAY_")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(folder / "stand_in.py")],
            env=clean | {"WAY": way, "TMPDIR": str(self.temporaries), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)  # one by one, as they come

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def until_it_says(self, text: str) -> None:
        until(lambda: text in self.text, lambda: f"{text!r} in\n{self.text}")

    def children(self) -> list[psutil.Process]:
        children: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        return children

    def child(self, part: str) -> psutil.Process:
        """The one with this in its command line."""
        found: list[psutil.Process] = []

        def look() -> bool:
            found[:] = [child for child in self.children() if part in " ".join(child.cmdline())]
            return len(found) == 1

        until(look, lambda: f"one child with {part!r} among {self.children()}")
        return found[0]

    def code(self) -> int:
        code = self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)  # the last line may still be under way
        return code

    def close(self) -> None:
        left = self.children() if self.process.poll() is None else []
        self.process.kill()
        self.process.wait(WAIT_S)
        for child in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        assert self.process.stdout is not None
        self._reader.join(WAIT_S)
        self.process.stdout.close()


def until(condition: Callable[[], bool], expected: Callable[[], str]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {WAIT_S:.0f} s: {expected()}"
        time.sleep(0.05)


@pytest.fixture
def start() -> Iterator[Callable[[str], Up]]:
    """Starts one `up`; the stand-ins' way is e.g. "server is stubborn"."""
    folder = Path(tempfile.mkdtemp(prefix="tr-"))  # short: a socket's path is bounded
    running: list[Up] = []

    def begin(way: str = "") -> Up:
        running.append(Up(folder, way))
        return running[-1]

    yield begin
    for one in running:
        one.close()
    shutil.rmtree(folder)


def assert_gone(children: list[psutil.Process], within_s: float = WAIT_S) -> None:
    _, alive = psutil.wait_procs(children, timeout=within_s)
    assert alive == []


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_says_when_it_is_ready_and_leaves_nothing_behind(start: Callable[[str], Up], sig: signal.Signals) -> None:
    up = start("")
    up.until_it_says("Ctrl-C")
    assert re.search(r"Chat page +http://127\.0\.0\.1:\d+/\?model=local\n", up.text)
    assert re.search(r"Terminal +curl -N http://127\.0\.0\.1:\d+/api/chat .*\"model\": \"local\"", up.text)
    children = up.children()
    assert len(children) == 3  # Redis, worker, edge
    up.process.send_signal(sig)
    assert up.code() == 0
    assert up.lines[-1] == "tokenrelay: stopped\n"
    assert_gone(children, within_s=0)
    assert list(up.temporaries.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to its parent")
def test_killed_outright_it_takes_its_children_with_it(start: Callable[[str], Up]) -> None:
    up = start("")
    up.until_it_says("Ctrl-C")
    children = up.children()
    assert len(children) == 3
    up.process.kill()
    assert_gone(children)


@pytest.mark.parametrize(("role", "part"), [("worker", "stand_in.py workers"), ("edge", "stand_in.py server")])
def test_a_child_that_dies_is_started_again(start: Callable[[str], Up], role: str, part: str) -> None:
    up = start("")
    up.until_it_says("Ctrl-C")
    first = up.child(part)
    first.kill()
    up.until_it_says(f"the {role} was killed by SIGKILL; starting it again in 0.5 s")
    assert up.child(part).pid != first.pid


def test_a_redis_that_dies_is_started_again(start: Callable[[str], Up]) -> None:
    up = start("")
    up.until_it_says("Ctrl-C")
    first = up.child("redis.sock")
    first.kill()
    up.until_it_says("Redis was killed by SIGKILL")
    assert up.child("redis.sock").pid != first.pid


def test_a_child_that_cannot_start_ends_it_all(start: Callable[[str], Up]) -> None:
    up = start("server ends")
    assert up.code() == 1
    assert "the edge ended with exit code 3, 4 times before it was ready" in up.text
    assert list(up.temporaries.iterdir()) == []


@pytest.mark.parametrize("role", ["workers", "server"])
def test_asked_twice_it_does_not_wait(start: Callable[[str], Up], role: str) -> None:
    up = start(f"{role} is stubborn")
    up.until_it_says("Ctrl-C")
    children = up.children()
    up.process.send_signal(signal.SIGINT)
    up.until_it_says("stopping")
    with pytest.raises(subprocess.TimeoutExpired):
        up.process.wait(1)  # the stubborn one is given its time
    up.process.send_signal(signal.SIGINT)
    started = time.monotonic()
    assert up.code() == 0
    assert time.monotonic() - started < 5
    assert_gone(children, within_s=0)
    assert list(up.temporaries.iterdir()) == []


def tokenrelay_up(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TOKENRELAY_")}
    command = [sys.executable, "-m", "tokenrelay.server.cli", "up", *options]
    return subprocess.run(command, env=clean | environment, cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S)


def test_a_port_in_use_is_told_before_anything_is_started() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        done = tokenrelay_up("--port", str(port))
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"port {port} is already in use" in done.stderr
    assert f"--port {port + 1}" in done.stderr or port == 65535


def test_an_edge_that_listens_there_already_counts_as_in_use() -> None:
    with socket.socket() as edge:
        edge.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        edge.bind(("127.0.0.1", 0))
        edge.listen()
        assert tokenrelay_up("--port", str(edge.getsockname()[1])).returncode == 1


def test_without_keys_it_stays_on_loopback() -> None:
    done = tokenrelay_up("--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 1
    assert "TOKENRELAY_API_KEYS" in done.stderr
    assert done.stdout == ""


def test_a_setting_that_cannot_be_is_named_and_secrets_are_not_shown() -> None:
    done = tokenrelay_up("--port", "0", TOKENRELAY_API_KEYS="hush-hush")
    assert done.returncode == 1
    assert "TOKENRELAY_API_KEYS" in done.stderr
    assert "hush-hush" not in done.stderr + done.stdout
