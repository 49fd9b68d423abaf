"""`python -m loadtest.bench idle`: thousands of idle connections, held by one edge process.

All follow one silent stream. Each must get its heartbeats, and none may be closed. Exit 0 when that is so and
memory is below its target, 1 when not, 2 when it could not run.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tokenrelay.loadtest import machine
from tokenrelay.loadtest.arguments import count, positive
from tokenrelay.loadtest.bench import output
from tokenrelay.loadtest.bench.crowd import Remote
from tokenrelay.loadtest.bench.measure import IDLE, PATIENT
from tokenrelay.loadtest.bench.table import FIGURES
from tokenrelay.loadtest.fleet import CannotStart, Fleet

SPARE_FILES: Final = 512
AT_ONCE: Final = 1000
LATE_S: Final = 3.0
"""The edge looks at its connections once a second, and a busy one somewhat later."""

BARS: Final = {"sse": FIGURES["idle_sse"].bar, "ws": FIGURES["idle_ws"].bar}
NAMES: Final = {"sse": "SSE", "ws": "WebSocket"}


@dataclass(frozen=True)
class Held:
    """What came of one transport."""

    transport: str
    connections: int
    seconds: float
    heartbeat_s: float
    kib: float  # resident, for each
    cpu_share: float  # of one core, while they were held
    open_after: int
    fewest: int  # heartbeats of the connection that got the fewest
    most: int

    @property
    def wanted(self) -> int:
        """Heartbeats that each has to have had."""
        return int(self.seconds / (self.heartbeat_s + LATE_S))

    @property
    def holds(self) -> bool:
        bar = BARS[self.transport]
        return self.open_after == self.connections and self.fewest >= self.wanted and (bar is None or self.kib <= bar)

    def to_object(self) -> dict[str, Any]:
        return {**vars(self), "wanted": self.wanted, "bar_kib": BARS[self.transport], "holds": self.holds}


def hold(transport: str, connections: int, seconds: float, heartbeat_s: float) -> Held:
    """Raises CannotStart; RuntimeError when they cannot be opened."""
    environment = {
        **PATIENT, "TOKENRELAY_HEARTBEAT_S": str(heartbeat_s), "TOKENRELAY_MAX_CONNECTIONS": str(connections + 200),
    }  # fmt: skip
    with Fleet(env=environment) as fleet, Remote("127.0.0.1", fleet.port) as crowd:
        stream_id = crowd.open("writer", 1, model=IDLE)
        crowd.open("warm", 20, stream_id=stream_id, transport=transport)
        time.sleep(0.5)
        before = fleet.resident_bytes("edge")
        opened = 0
        while opened < connections:
            number = min(AT_ONCE, connections - opened)
            crowd.open("idle", number, stream_id=stream_id, transport=transport, listens=True)
            opened += number
            print(f"{NAMES[transport]}: {opened} of {connections} open", file=sys.stderr, flush=True)
        cpu, began = fleet.cpu_seconds()["edge"], time.monotonic()
        start = crowd.ask("beats", group="idle")
        time.sleep(seconds)
        beats = crowd.ask("beats", group="idle")
        took = time.monotonic() - began
        kib = (fleet.resident_bytes("edge") - before) / connections / 1024
        share = (fleet.cpu_seconds()["edge"] - cpu) / took
    return Held(
        transport, connections, seconds, heartbeat_s, round(kib, 2), round(share, 4), beats["open"],
        beats["fewest"] - start["most"], beats["most"],
    )  # fmt: skip


def raise_limit(files: int) -> None:
    """Open files, for this process and those it starts. Raises RuntimeError where the system does not let us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = files + SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise RuntimeError(f"this user may open {hard} files, {wanted} are needed: raise the hard limit (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m loadtest.bench idle", description="Connections that wait, on one edge process."
    )
    made.add_argument("--sse", type=count, default=10_000, metavar="N", help="connections over SSE (10000)")
    made.add_argument("--ws", type=count, default=5_000, metavar="N", help="over WebSocket (5000)")
    made.add_argument("--seconds", type=positive, default=60.0, metavar="S", help="how long they are held (60)")
    made.add_argument("--heartbeat", type=positive, default=15.0, metavar="S", help="TOKENRELAY_HEARTBEAT_S")
    output.arguments(made, "idle")
    return made


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    held: list[Held] = []
    try:
        raise_limit(max(options.sse, options.ws))
        for transport, connections in (("sse", options.sse), ("ws", options.ws)):
            held.append(hold(transport, connections, options.seconds, options.heartbeat))
    except (CannotStart, RuntimeError) as error:
        print(f"idle: {error}", file=sys.stderr)
        return 2
    rows = [each.to_object() for each in held]
    whole = {
        "command": output.command("idle", argv),
        "date": output.today(),
        "machine": machine.describe(),
        "rows": rows,
    }
    output.deliver(options, whole, as_markdown(whole))
    return 0 if all(each.holds for each in held) else 1


def as_markdown(whole: Mapping[str, Any]) -> str:
    head = (
        "held by one edge",
        "for",
        "memory each",
        "bar",
        "CPU of the edge",
        "closed",
        "heartbeats, fewest",
        "wanted",
        "",
    )
    rows = [
        (
            f"{row['connections']:,} {NAMES[row['transport']]}", f"{row['seconds']:g} s", f"{row['kib']:.1f} KiB",
            f"{row['bar_kib']:g} KiB", f"{row['cpu_share']:.1%} of a core", str(row["connections"] - row["open_after"]),
            str(row["fewest"]), str(row["wanted"]), "met" if row["holds"] else "MISSED",
        )
        for row in whole["rows"]
    ]  # fmt: skip
    return f"{output.table(head, rows)}\n\n{output.provenance(whole)}"


if __name__ == "__main__":
    sys.exit(main())
