"""A server that was started by a worker ends with it, also when the worker is killed and the server reads no input."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SERVER = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
WORKER = """
import asyncio, sys
from tokenrelay.workers.tools import mcp_sdk
from tokenrelay.workers.tools.servers import ServerConfig

async def main():
    config = ServerConfig(command=sys.executable, args=("-c", sys.argv[1], sys.argv[2]))
    async with mcp_sdk._started(config) as transport, transport:
        await asyncio.sleep(60)

asyncio.run(main())
"""


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_killed_worker_leaves_no_server_behind(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    worker = subprocess.Popen([sys.executable, "-c", WORKER, SERVER, str(told)])
    pid = 0
    try:
        until = time.monotonic() + 30
        while not pid and time.monotonic() < until:
            time.sleep(0.05)
            pid = int(told.read_text() or 0) if told.exists() else 0
        assert is_alive(pid)
        worker.kill()
        worker.wait(10)
        until = time.monotonic() + 10
        while is_alive(pid) and time.monotonic() < until:
            time.sleep(0.05)
        assert not is_alive(pid)
    finally:
        worker.kill()
        worker.wait(10)
        if pid:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
