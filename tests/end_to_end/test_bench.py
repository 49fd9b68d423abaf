"""The benchmark's own commands against real processes, small: that they measure, and that a soak sees a leak."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fleet import one_server
from tokenrelay.loadtest.bench import growth, idle, soak, soak_verdict
from tokenrelay.loadtest.bench.growth import Size

LEAK = """
import os, sys, threading, time
if "tokenrelay.server" in getattr(sys, "orig_argv", []):
    import socket
    kept = []
    def leak():
        where = os.environ["TOKENRELAY_REDIS_URL"].removeprefix("unix://").partition("?")[0]
        number = 0
        while True:
            time.sleep(0.05)
            kept.append((bytearray(b"x" * 400_000), os.dup(0)))
            number += 1
            try:
                with socket.socket(socket.AF_UNIX) as redis:
                    redis.connect(where)
                    redis.sendall(b"SET leaked:%d 1\\r\\n" % number)
                    redis.recv(10)
            except OSError:
                pass
    threading.Thread(target=leak, daemon=True).start()
"""


@one_server("the soak looks at the keys")
def test_a_soak_of_seconds_is_flat() -> None:
    whole = soak.soak(8, 10, 5)
    assert whole["streams"] == 80
    assert whole["tokens"] > 2_400
    assert (whole["lost"], whole["repeated"], whole["failed"], whole["lasting"]) == (0, 0, 0, [])
    assert whole["at_rest"]["redis_keys"] < 300
    assert all(row["holds"] for row in whole["none"])
    assert all(row["holds"] for row in whole["rows"] if row["key"].endswith(("_fds", "_keys")))


def test_a_soak_sees_a_leak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edge that forgets 8 MiB a second, 20 descriptors and 20 keys."""
    (tmp_path / "sitecustomize.py").write_text(LEAK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    whole = soak.soak(6, 5, 5)
    grew = {row["key"] for row in whole["rows"] if not row["holds"]}
    assert {"edge_mib", "edge_fds"} <= grew
    assert "worker_mib" not in grew
    assert any(name.startswith("leaked:") for name in whole["lasting"])
    assert not whole["holds"]
    assert "GREW" in soak_verdict.as_markdown(whole["rows"], whole["none"])


def test_idle_connections_get_their_heartbeats(tmp_path: Path) -> None:
    file = tmp_path / "idle.json"
    # A socket whose pong is a heartbeat late is closed: two seconds are not lost on a busy machine.
    idle.main(["--sse", "150", "--ws", "150", "--seconds", "8.4", "--heartbeat", "2", "--json", str(file)])
    rows: list[dict[str, Any]] = json.loads(file.read_text())["rows"]
    for row in rows:
        assert row["open_after"] == 150
        assert row["fewest"] >= row["wanted"] == 1
        assert row["kib"] < 64


def test_growth_measures_each_series() -> None:
    said: list[str] = []
    series = growth.measure(Size((4,), ((3, 2),), (9,), window_s=1, probes=3, runs=1), said.append)
    assert len(said) == 3
    assert {name: [point["size"] for point in points] for name, points in series.items()} == {
        "streams": [4], "viewers": [3], "lengths": [9],
    }  # fmt: skip
    assert series["streams"][0]["ttft_p50"] > 0
    assert series["viewers"][0]["events_a_second"] > series["streams"][0]["events_a_second"] / 2
    assert series["viewers"][0]["bytes_an_event"] > 50
    assert series["lengths"][0]["redis_bytes"] > 0
    assert all(points[0]["cpu_us"] > 0 for points in series.values())
