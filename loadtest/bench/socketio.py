"""socket.io with its adapter for Redis streams, to compare with: fan-out and recovery. socketio.cjs is the program.

python-socketio has no such adapter (its manager is publish/subscribe only, which keeps nothing), so Node.js's is used.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tokenrelay.loadtest.bench import cache
from tokenrelay.loadtest.fleet import CannotStart, Fleet

PROGRAM: Final = Path(__file__).with_name("socketio.cjs")
PACKAGES: Final = ("socket.io@4.8.4", "@socket.io/redis-streams-adapter@0.3.1", "redis@6.3.1")
NEEDS: Final = "socket.io needs node 20 or later with npm, and its packages from the npm registry"


class SocketioFleet(Fleet):
    """One node process that serves clients, one that writes."""

    end_mark = "[end]"
    transport = "socketio"

    @classmethod
    def prepare(cls) -> None:
        modules()

    def _start_roles(self) -> None:
        node = shutil.which("node") or "node"
        place, redis = {"BENCH_MODULES": str(modules())}, str(self.launcher.redis_socket)
        self._given |= place
        self._start("worker", [node, str(PROGRAM), "worker", redis])
        self._start("edge", [node, str(PROGRAM), "edge", str(self.port), redis])


def modules() -> Path:
    """A folder with the packages in its `node_modules`; fetched once. Raises CannotStart."""
    folder = cache.folder("socketio")
    mark = folder / "fetched.json"
    if mark.exists() and json.loads(mark.read_text(encoding="utf-8")) == list(PACKAGES):
        return folder
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise CannotStart(NEEDS)
    command = [npm, "install", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund", *PACKAGES]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=cache.PATIENCE_S)
    except (OSError, subprocess.SubprocessError) as error:
        raise CannotStart(f"{NEEDS}; they could not be fetched ({type(error).__name__})") from None
    mark.write_text(json.dumps(PACKAGES), encoding="utf-8")
    return folder
