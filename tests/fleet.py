"""A real fleet for tests: Redis, edges and workers as processes on loopback, each to be killed and started at will."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import redis

from tests.cluster.servers import Servers
from tokenrelay.loadtest.fleet import free_port
from tokenrelay.protocol.runtime.launcher import Launcher, clean_environment, role_command, wait_until
from tokenrelay.protocol.store import keys

ROOT = Path(__file__).resolve().parent.parent
READY_TIMEOUT_S = 90.0
ON_CLUSTER = os.environ.get("TOKENRELAY_TEST_CLUSTER") == "1"
"""Fleets stand on a cluster of three primaries instead of one server (`make test-cluster`)."""


STREAM_ID = "(?:[0-9A-Za-z]{3}-)?[0-9a-f]{32}"
"""Of streams that fleets start; with a partition on a cluster."""


def one_server(why: str) -> pytest.MarkDecorator:
    """For a test that means nothing on a cluster."""
    return pytest.mark.skipif(ON_CLUSTER, reason=f"one server: {why}")


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
        redis_binary: Path | None = None,
        replicas: int | None = None,
        primaries: int = 3,
    ) -> None:
        """`replicas` of each of the primaries: the fleet stands on a cluster, whatever the others stand on."""
        self._launcher = Launcher("tr-fleet-")
        self._number_of_edges, self._number_of_workers = edges, workers
        self._given = env or {}
        self._redis_options, self._redis_binary = redis_options, redis_binary
        self._redis_process: subprocess.Popen[bytes] | None = None
        self.servers: Servers | None = None  # None on one server
        if replicas is not None or (ON_CLUSTER and redis_binary is None and not redis_options):
            self.servers = Servers(primaries, replicas or 0, launcher=self._launcher)
        self.edges: list[subprocess.Popen[bytes]] = []
        self.workers: list[subprocess.Popen[bytes]] = []
        self.ports: list[int] = []

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    @property
    def folder(self) -> Path:
        return self._launcher.folder

    @property
    def redis_path(self) -> Path:
        return self._launcher.redis_socket

    @property
    def redis_url(self) -> str:
        return self._launcher.redis_url if self.servers is None else self.servers.url

    @property
    def env(self) -> dict[str, str]:
        ours = {
            "TOKENRELAY_REDIS_URL": self.redis_url,
            "TOKENRELAY_REDIS_PARTITIONS": "16",
            "TOKENRELAY_SCRIPTED": "1",
            "TOKENRELAY_LOCAL": "0",
            "TOKENRELAY_DRAIN_S": "1",
            "TOKENRELAY_FINISH_S": "2",
            "TOKENRELAY_SHED_LAG_MS": "0",  # a slow machine is no overload
        }
        return clean_environment(ours | self._given)

    def __enter__(self) -> Fleet:
        try:
            self.start_redis()
            for _ in range(self._number_of_edges):
                self.ports.append(free_port())
                self.edges.append(self._start_edge(self.ports[-1]))
            for _ in range(self._number_of_workers):
                self.workers.append(self._start_worker())
            self.wait_until_ready()
        except BaseException:
            self._launcher.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._launcher.stop()

    # -- Redis
    # -----------------------------------------------------------------------------------------------------------

    def start_redis(self) -> None:
        if self.servers is not None:
            if self.servers.all:
                for server in self.servers.all:
                    server.start()
                self.servers.wait_until_whole()
            else:
                self.servers.start()
            return
        self._redis_process = self._launcher.start_redis(*self._redis_options, binary=self._redis_binary)
        client = self.redis()
        until(lambda: bool(client.ping()), "Redis does not answer", redis.RedisError)

    @property
    def redis_process(self) -> subprocess.Popen[bytes]:
        assert self._redis_process is not None
        return self._redis_process

    def redis(self) -> Any:
        if self.servers is not None:
            return redis.RedisCluster(host="127.0.0.1", port=self.servers.all[0].port)
        return redis.Redis.from_url(self.redis_url)

    @property
    def names(self) -> keys.Names:
        return keys.ONE_SERVER if self.servers is None else keys.CLUSTER

    def kill_redis(self) -> None:
        if self.servers is not None:
            for server in self.servers.all:
                server.kill()
            return
        assert self._redis_process is not None
        self._redis_process.kill()
        self._redis_process.wait(10)

    def signal_redis(self, number: signal.Signals) -> None:
        if self.servers is not None:
            for server in self.servers.all:
                server.process.send_signal(number)
            return
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
        self.workers[index] = self._start_worker()

    def start_worker(self, **env: str) -> int:
        """Gives its index; `env` are settings of its own. Returns before it has taken anything."""
        self.workers.append(self._start_worker(env))
        return len(self.workers) - 1

    def wait_until_ready(self) -> None:
        """Every living edge is ready and sees the living workers."""
        alive = sum(worker.poll() is None for worker in self.workers)
        for url, edge in zip(self.urls, self.edges, strict=True):
            if edge.poll() is None:
                until(lambda url=url: workers_seen(url) >= alive, f"{url} is not ready\n{self.logs()}", OSError)

    def logs(self) -> str:
        """The end of every process's output."""
        return self._launcher.last_words()

    def tracebacks(self) -> str:
        """What every process logged of its own mistakes, since it began."""
        said = self.said()
        plain = re.findall(r"^Traceback .*(?:\n[ \t].*)*\n.*", said, re.MULTILINE)
        ours = [line.replace("\\n", "\n") for line in said.splitlines() if '"exception"' in line]
        return "\n".join([*plain, *ours])

    def said(self) -> str:
        """Everything that every process logged."""
        return "\n".join(path.read_text() for path in self._launcher.logs())

    def _end(self, process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        process.send_signal(signal.SIGCONT)  # one that is paused would not hear a gentle word
        process.send_signal(number)
        process.wait(15)

    def _start_edge(self, port: int) -> subprocess.Popen[bytes]:
        return self._launcher.start("edge", role_command("server", "--port", str(port)), self.env)

    def _start_worker(self, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        return self._launcher.start("worker", role_command("workers"), self.env | (env or {}))


def workers_seen(url: str) -> int:
    import json

    with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:
        return int(json.load(answer)["workers"])


def until(holds: Any, otherwise: str, *not_yet: type[Exception]) -> None:
    if not wait_until(holds, READY_TIMEOUT_S, *not_yet, OSError):
        raise TimeoutError(otherwise)
