"""`make cluster` leaves nothing behind, however it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.fleet import ROOT
from tokenrelay.protocol.runtime.launcher import wait_until


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_make_cluster_ends_with_its_servers(ending: signal.Signals) -> None:
    command = [sys.executable, "-m", "tests.cluster", "--primaries", "1", "--replicas", "0"]
    told = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert told.stdout is not None
    for line in told.stdout:
        if "TOKENRELAY_REDIS_URL=redis+cluster://" in line:
            break
    port = int(line.split("redis+cluster://127.0.0.1:")[1].split()[0])
    client: Any = redis.Redis(port=port)
    assert client.ping()
    folder = Path(client.config_get("dir")["dir"]).parent
    pid = client.info("server")["process_id"]
    told.send_signal(ending)
    assert told.wait(10) == (-ending if ending is signal.SIGKILL else 0)
    told.stdout.close()
    assert wait_until(lambda: not _is_running(pid), 10)
    assert not folder.exists() or ending is signal.SIGKILL
    shutil.rmtree(folder, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "zombie" not in Path(f"/proc/{pid}/status").read_text()
