"""Other builds that can be measured in the same run, and which figures are comparable. Measures nothing.

`floor`: the least that an edge, Redis and a worker can do for a token; figures are multiples of it. `naive`:
generation in the web process, one Redis subscription per viewer. `stock-arq`: this product on arq's own loop.
`nchan`: nginx with the module nchan and Redis, a small publisher beside it. `socketio`: socket.io with its adapter
for Redis streams and connection state recovery. The last two are transports: they have no queue, so only what they
are for is compared.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tokenrelay.loadtest.bench.nchan import NchanFleet
from tokenrelay.loadtest.bench.socketio import SocketioFleet
from tokenrelay.loadtest.fleet import Fleet
from tokenrelay.protocol.runtime.launcher import role_command


class NaiveFleet(Fleet):
    """Redis and one process that does everything."""

    def _start_roles(self) -> None:
        self._start("edge", role_command("loadtest.bench.naive", str(self.port)))


class FloorFleet(Fleet):
    """Three processes that do the least there is to do."""

    def _start_roles(self) -> None:
        self._start("edge", role_command("loadtest.bench.floor", "edge", str(self.port)))
        self._start("worker", role_command("loadtest.bench.floor", "worker"))


class StockArqFleet(Fleet):
    """Ours but for the worker's loop."""

    def _start_roles(self) -> None:
        self._start("edge", role_command("server", "--port", str(self.port)))
        self._start("worker", role_command("loadtest.bench.stock_arq"))


@dataclass(frozen=True)
class Build:
    """`measured`: figures by the measurement that gives them; of others it says nothing."""

    kind: type[Fleet]
    measured: Mapping[str, frozenset[str]]


def _figures(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PACED: Final = _figures("paced_cpu paced_edge paced_worker paced_redis ttft_loaded_p50 ttft_loaded_p99")
_FREE: Final = _figures("free_cpu free_edge free_worker free_redis free_rate")

_STARTS: Final = _figures("start_cpu start_edge start_worker start_redis")
_LADDER: Final = _figures(
    "play_20 play_50 play_100 play_500 play_ttft_20 play_ttft_50 play_ttft_100 play_ttft_500 play_ttft_alone"
)

BUILDS: Final[dict[str, Build]] = {
    "floor": Build(FloorFleet, {"play": _LADDER, "starts": _STARTS}),
    "naive": Build(NaiveFleet, {
        "play": _LADDER - _figures("play_500 play_ttft_500"),
        "dispatching": _figures("ttft_idle_p50"), "paced": _PACED - _figures("paced_worker"),
        "free": _FREE - _figures("free_worker"), "fan_out": _figures("fan_out"), "idle_sse": _figures("idle_sse"),
    }),
    # With thousands in flight a probe takes seconds, so there are too few for a p99.
    "stock-arq": Build(StockArqFleet, {
        "dispatching": _figures("pickup_idle_p50 pickup_idle_p99 pickup_busy_p50 ttft_idle_p50 ttft_growth"),
        "paced": _PACED, "free": _FREE,
    }),
    "nchan": Build(NchanFleet, {
        "fan_out": _figures("fan_out"), "reading": _figures("reading_sse reading_sse_p50"),
        "resume": _figures("replay_p50"),
    }),
    "socketio": Build(SocketioFleet, {"fan_out": _figures("fan_out"), "resume": _figures("replay_p50")}),
}  # fmt: skip


def named(text: str) -> list[str]:
    """An argument's type: names with commas between, or `all`."""
    names = list(BUILDS) if text == "all" else text.split(",")
    for name in names:
        if name not in BUILDS:
            raise argparse.ArgumentTypeError(f"unknown build {name!r}; there is: {', '.join(BUILDS)}, all")
    return names
