"""Starts our processes on this machine and ends them: each tied to us, with its log in a folder; knows no role's work.

/tmp/PREFIXx1y2z3/   0700
    redis.sock redis.log   the embedded server (redis_server.py)
    NAME.log               what each process printed
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tokenrelay import FOLDER
from tokenrelay.protocol.runtime.die_with_parent import tied
from tokenrelay.protocol.runtime.redis_server import arguments, find_server, socket_in

LOG_TAIL: Final = 2000
END_TIMEOUT_S: Final = 10.0
LOOK_S: Final = 0.05


def role_command(role: str, *options: str) -> list[str]:
    """`python -m tokenrelay.ROLE`, importable in an environment that `importable` made.

    -P: a folder `tokenrelay` where somebody happens to stand is not ours.
    """
    return [sys.executable, "-P", "-m", f"tokenrelay.{role}", *options]


def importable(environment: Mapping[str, str]) -> dict[str, str]:
    """With which `python -P -m` finds this package, installed or not."""
    path = os.pathsep.join(filter(None, (str(FOLDER.parent), environment.get("PYTHONPATH"))))
    return {**environment, "PYTHONPATH": path}


def clean_environment(own: Mapping[str, str]) -> dict[str, str]:
    """`own` settings and none that we happen to have ourselves."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TOKENRELAY_")}
    return importable({**kept, **own})


class Launcher:
    """Processes by the names they were started under. Start them in a thread that outlives them (die_with_parent)."""

    def __init__(self, prefix: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=prefix))
        self._processes: dict[str, list[subprocess.Popen[bytes]]] = {}
        self._logs = 0  # how many were begun; their names sort in the order of the starts

    def __repr__(self) -> str:
        started = ", ".join(f"{len(each)} {name}" for name, each in self._processes.items())
        return f"<Launcher {self.folder} | {started or 'nothing'}>"

    @property
    def redis_socket(self) -> Path:
        return socket_in(self.folder)

    @property
    def redis_url(self) -> str:
        """As redis-py's `from_url` and arq's `from_dsn` take it."""
        return f"unix://{self.redis_socket}?db=0"

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{self._logs:02d}-{name}.log").open("wb") as log:
            process = subprocess.Popen(tied(command), env=environment, cwd=self.folder, stdout=log, stderr=log)
        self._logs += 1
        self._processes.setdefault(name, []).append(process)
        return process

    def start_redis(self, *options: str, binary: Path | None = None) -> subprocess.Popen[bytes]:
        """Returns before it answers. Raises RedisUnavailable."""
        command = [str(binary or find_server()), *arguments(self.folder), *options]
        return self.start("redis", command, os.environ)

    def named(self, name: str) -> list[subprocess.Popen[bytes]]:
        """Those that were started under this name, ended ones included."""
        return list(self._processes.get(name, ()))

    def has_lost_one(self) -> bool:
        return any(process.poll() is not None for each in self._processes.values() for process in each)

    def logs(self) -> list[Path]:
        """What each process printed, in the order of their starts; Redis's own log last."""
        return sorted(self.folder.glob("*.log"))

    def last_words(self) -> str:
        """The end of every process's output."""
        texts = [(path.name, path.read_text(errors="replace")[-LOG_TAIL:].strip()) for path in self.logs()]
        return "\n".join(f"== {name}\n{text}" for name, text in texts)

    def stop(self) -> None:
        """Kills them all, Redis last, and removes the folder."""
        names = sorted(self._processes, key=lambda name: name == "redis")
        processes = [process for name in names for process in self._processes[name]]
        for process in processes:
            with contextlib.suppress(OSError):
                process.send_signal(signal.SIGCONT)
                process.kill()
        for process in processes:
            process.wait(END_TIMEOUT_S)
        shutil.rmtree(self.folder, ignore_errors=True)


def wait_until(holds: Callable[[], bool], timeout_s: float, *not_yet: type[Exception]) -> bool:
    """Whether it held within the time; what it raises of `not_yet` means that it does not hold so far."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(*not_yet):
            if holds():
                return True
        time.sleep(LOOK_S)
    return False
