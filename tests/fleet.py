"""A real fleet for tests: Redis, edges and workers as processes on loopback, each to be killed and started at will."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

import redis

from tokenrelay.loadtest.fleet import free_port
from tokenrelay.server.stack.embedded_redis import arguments, find_server

ROOT = Path(__file__).resolve().parent.parent
READY_TIMEOUT_S = 30.0


class Fleet:
    """`with Fleet(edges=2, workers=1) as fleet: fleet.urls`. Settings by `env`; logs in files, shown when a start
    fails."""

    def __init__(
        self,
        *,
        edges: int = 1,
        workers: int = 1,
        env: dict[str, str] | None = None,
        redis_options: tuple[str, ...] = (),
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="tr-fleet-"))
        self._number_of_edges, self._number_of_workers = edges, workers
        self._given = env or {}
        self._redis_options = redis_options
        self._redis_process: subprocess.Popen[bytes] | None = None
        self.edges: list[subprocess.Popen[bytes]] = []
        self.workers: list[subprocess.Popen[bytes]] = []
        self.ports: list[int] = []

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    @property
    def redis_path(self) -> Path:
        return self._folder / "redis.sock"

    @property
    def redis_url(self) -> str:
        return f"unix://{self.redis_path}?db=0"

    @property
    def env(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("TOKENRELAY_")}
        return {
            **ours,
            "TOKENRELAY_REDIS_URL": self.redis_url,
            "TOKENRELAY_SCRIPTED": "1",
            "TOKENRELAY_LOCAL": "0",
            "TOKENRELAY_DRAIN_S": "1",
            "TOKENRELAY_FINISH_S": "2",
            "PYTHONPATH": str(ROOT),
            **self._given,
        }

    def __enter__(self) -> Fleet:
        try:
            self.start_redis()
            for _ in range(self._number_of_edges):
                self.ports.append(free_port())
                self.edges.append(self._start_edge(self.ports[-1]))
            for _ in range(self._number_of_workers):
                self.workers.append(self._start("workers"))
            self.wait_until_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop()

    # -- Redis
    # -----------------------------------------------------------------------------------------------------------

    def start_redis(self) -> None:
        command = [str(find_server()), *arguments(self._folder), *self._redis_options]
        self._redis_process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        client = self.redis()
        until(lambda: bool(client.ping()), "Redis does not answer", redis.RedisError)

    def redis(self) -> Any:
        return redis.Redis.from_url(self.redis_url)

    def kill_redis(self) -> None:
        assert self._redis_process is not None
        self._redis_process.kill()
        self._redis_process.wait(10)

    def signal_redis(self, number: signal.Signals) -> None:
        assert self._redis_process is not None
        self._redis_process.send_signal(number)

    # -- edges and workers
    # -----------------------------------------------------------------------------------------------

    def kill_edge(self, index: int, number: signal.Signals = signal.SIGKILL) -> None:
        self._end(self.edges[index], number)

    def restart_edge(self, index: int) -> None:
        if self.edges[index].poll() is None:
            self.kill_edge(index)
        self.start_edge(index)
        self.wait_until_ready()

    def start_edge(self, index: int) -> None:
        """Again, on the same port. Returns before it listens."""
        self.edges[index] = self._start_edge(self.ports[index])

    def add_edge(self) -> str:
        """Gives its URL. Returns before it listens."""
        self.ports.append(free_port())
        self.edges.append(self._start_edge(self.ports[-1]))
        return self.urls[-1]

    def kill_worker(self, index: int, number: signal.Signals = signal.SIGKILL) -> None:
        self._end(self.workers[index], number)

    def restart_worker(self, index: int) -> None:
        """Another in its place. Returns before it has taken anything."""
        self.workers[index] = self._start("workers")

    def start_worker(self) -> int:
        """Gives its index. Returns before it has taken anything."""
        self.workers.append(self._start("workers"))
        return len(self.workers) - 1

    def wait_until_ready(self) -> None:
        """Every living edge is ready and sees the living workers."""
        alive = sum(worker.poll() is None for worker in self.workers)
        for url, edge in zip(self.urls, self.edges, strict=True):
            if edge.poll() is None:
                until(lambda url=url: workers_seen(url) >= alive, f"{url} is not ready\n{self.logs()}", OSError)

    def logs(self) -> str:
        """The end of every process's output."""
        return "\n".join(f"== {path.name}\n{path.read_text()[-2000:]}" for path in sorted(self._folder.glob("*.log")))

    def tracebacks(self) -> str:
        """What every process logged of its own mistakes, since it began."""
        said = self.said()
        plain = re.findall(r"^Traceback .*(?:\n[ \t].*)*\n.*", said, re.MULTILINE)
        ours = [line.replace("\\n", "\n") for line in said.splitlines() if '"exception"' in line]
        return "\n".join([*plain, *ours])

    def said(self) -> str:
        """Everything that every process logged."""
        return "\n".join(path.read_text() for path in sorted(self._folder.glob("*.log")))

    def _end(self, process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        process.send_signal(signal.SIGCONT)  # one that is paused would not hear a gentle word
        process.send_signal(number)
        process.wait(15)

    def _start_edge(self, port: int) -> subprocess.Popen[bytes]:
        return self._start("server", "--port", str(port))

    def _start(self, module: str, *options: str) -> subprocess.Popen[bytes]:
        number = len(list(self._folder.glob("*.log")))
        with (self._folder / f"{number:02d}-{module}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"tokenrelay.{module}", *options],
                env=self.env,
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )

    def _stop(self) -> None:
        processes = [*self.edges, *self.workers]
        for process in processes:
            with contextlib.suppress(OSError):
                process.send_signal(signal.SIGCONT)
                process.kill()
        for process in [*processes, *([self._redis_process] if self._redis_process else [])]:
            process.kill()
            process.wait(10)
        shutil.rmtree(self._folder, ignore_errors=True)


def workers_seen(url: str) -> int:
    import json

    with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:
        return int(json.load(answer)["workers"])


def until(holds: Any, otherwise: str, *expected: type[Exception]) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(*expected, urllib.error.URLError, ConnectionError):
            if holds():
                return
        time.sleep(0.05)
    raise TimeoutError(otherwise)
