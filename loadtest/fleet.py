"""A fleet for one run: Redis, edges and workers as processes on loopback that end with us. Imports none of
them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

import psutil

from tokenrelay import FOLDER
from tokenrelay.protocol.runtime.launcher import Launcher, clean_environment, role_command, wait_until
from tokenrelay.protocol.runtime.redis_server import RedisUnavailable

ROOT: Final = FOLDER.parent
READY_TIMEOUT_S: Final = 60.0
DEFAULTS: Final = {
    "TOKENRELAY_SCRIPTED": "1",
    "TOKENRELAY_LOCAL": "0",
    "TOKENRELAY_DRAIN_S": "1",
    "TOKENRELAY_FINISH_S": "1",
    "TOKENRELAY_LOG_LEVEL": "WARNING",
    "TOKENRELAY_MAX_JOBS": "4000",
    "TOKENRELAY_SHED_LAG_MS": "0",  # what is measured is what it carries, not what it refuses
}


PORTS: Final = range(10_000, 32_000)
"""Below those that Linux gives to outgoing connections (`ip_local_port_range`)."""

_turn = itertools.count(os.getpid() * 997)  # processes that are started one after the other begin far from each other


class CannotStart(Exception):
    """A process of the fleet ended or did not become ready; the text says which, with the end of its log."""


class Fleet:
    """`with Fleet(workers=2) as fleet: fleet.url`. Raises CannotStart on entering."""

    # What differs in other builds (loadtest/bench/builds.py).
    transport = "sse"
    end_mark = ""  # what ends a stream where the server leaves the connection open

    def __init__(self, *, workers: int = 1, env: Mapping[str, str] | None = None) -> None:
        self._workers = workers
        self._given = dict(env or {})
        self._launcher: Launcher | None = None  # None outside the context
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
        return self.launcher.redis_url

    @property
    def folder(self) -> Path:
        return self.launcher.folder

    @property
    def launcher(self) -> Launcher:
        assert self._launcher is not None, "the fleet is used outside its context"
        return self._launcher

    def __enter__(self) -> Self:
        self._launcher = Launcher("tokenrelay-load-")
        try:
            self.port = free_port()
            self._start_redis()
            self._until(lambda: self.launcher.redis_socket.exists(), "Redis")
            self._start_roles()
            self._until(lambda: ready_workers(self.url) >= self._workers, "the fleet")
        except BaseException:
            self.launcher.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.launcher.stop()

    def cpu_seconds(self) -> dict[str, float]:
        """User and system time so far of each part."""
        return {part: sum(map(cpu_of, self.launcher.named(part))) for part in ("redis", "edge", "worker")}

    def resident_bytes(self, part: str) -> int:
        return sum(psutil.Process(process.pid).memory_info().rss for process in self.launcher.named(part))

    def descriptors(self, part: str) -> int:
        """Open file descriptors."""
        return sum(psutil.Process(process.pid).num_fds() for process in self.launcher.named(part))

    def _start_redis(self, *options: str) -> None:
        try:
            self.launcher.start_redis(*options)
        except RedisUnavailable as error:
            raise CannotStart(f"{error}; or name a fleet with --host") from None

    def _start_roles(self) -> None:
        self._start("edge", role_command("server", "--port", str(self.port)))
        for _ in range(self._workers):
            self._start("worker", role_command("workers"))

    def _start(self, part: str, command: Sequence[str]) -> None:
        environment = clean_environment({**DEFAULTS, "TOKENRELAY_REDIS_URL": self.redis_url, **self._given})
        self.launcher.start(part, command, environment)

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        def holds_or_lost() -> bool:
            return self.launcher.has_lost_one() or holds()

        is_there = wait_until(holds_or_lost, READY_TIMEOUT_S, OSError, ValueError, KeyError)
        if self.launcher.has_lost_one():
            raise CannotStart(f"a process ended while {what} was starting\n{self.launcher.last_words()}")
        if not is_there:
            raise CannotStart(f"{what} was not ready after {READY_TIMEOUT_S:.0f} s\n{self.launcher.last_words()}")


def cpu_of(process: subprocess.Popen[bytes]) -> float:
    """Of the process and of the children it has now."""
    root = psutil.Process(process.pid)
    times = [each.cpu_times() for each in (root, *root.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


def ready_workers(url: str) -> int:
    with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:  # noqa: S310 - our own, http
        return int(json.load(answer)["workers"])


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
