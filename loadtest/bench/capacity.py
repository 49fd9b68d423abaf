"""`python -m loadtest.bench capacity GROWTH.json`: how many machines a load needs and what a million tokens cost.

Pure arithmetic from the lines that `growth` measured; every assumption is an argument and is printed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

from tokenrelay.loadtest.arguments import positive
from tokenrelay.loadtest.bench import fit, output
from tokenrelay.loadtest.bench.laws import PARTS
from tokenrelay.protocol.store.scripts import TOMBSTONE_MS

EXAMPLES: Final = (1_000, 10_000, 100_000, 1_000_000)
REMAINS_BYTES: Final = 340
"""What an ended stream leaves in Redis for TOMBSTONE_MS after its log has gone (`soak` measures it)."""

Laws: TypeAlias = Mapping[str, fit.Line]


@dataclass(frozen=True)
class Load:
    """What is assumed. `busy`: the share of a core that is meant to be used, the rest is for bursts and failures."""

    streams: int = 1_000
    rate: float = 20.0  # tokens a second of a stream
    length: float = 500.0  # tokens of an answer
    viewers: float = 1.0  # of each stream
    busy: float = 0.6
    core_hour: float = 0.04  # its price
    retention_s: float = 3_600.0
    bytes_an_event: float = 136.0

    @property
    def tokens_a_second(self) -> float:
        return self.streams * self.rate

    @property
    def answers_a_second(self) -> float:
        return self.tokens_a_second / self.length


@dataclass(frozen=True)
class Need:
    """What a load takes. Cores are whole ones at `busy`, before they are rounded up."""

    edge: float
    worker: float
    redis: float
    edge_gib: float
    redis_log_gib: float
    redis_remains_gib: float
    gbit_a_second: float

    @property
    def cells(self) -> int:
        """Redis servers: the script that starts a stream needs all its keys on one, and a server uses one core."""
        return max(1, math.ceil(self.redis))


def token_us(laws: Laws, part: str, load: Load) -> float:
    """CPU of one part for one more token written, its share of the answer's beginning and end included."""
    each = laws[f"{part}_a_token"].each + laws[f"{part}_an_answer"].fixed / load.length
    if part == "edge":
        each += laws["edge_a_viewer"].each * (load.viewers - 1)
    return max(each, 0.0)


def need(laws: Laws, load: Load, edge_kib: float) -> Need:
    cores = {part: token_us(laws, part, load) * load.tokens_a_second / 1e6 / load.busy for part in PARTS}
    kept = load.answers_a_second * load.retention_s * laws["redis_bytes"].at(load.length)
    remains = load.answers_a_second * TOMBSTONE_MS / 1000 * REMAINS_BYTES
    wire = load.tokens_a_second * load.viewers * load.bytes_an_event * 8
    held = load.streams * load.viewers * edge_kib * 1024
    return Need(cores["edge"], cores["worker"], cores["redis"], held / 2**30, kept / 2**30, remains / 2**30, wire / 1e9)


def streams_a_core(laws: Laws, part: str, load: Load) -> int:
    """Of this kind, on one core of a part."""
    cost = token_us(laws, part, load) * load.rate
    return int(load.busy * 1e6 / cost) if cost else 0


def cost_a_million(laws: Laws, load: Load) -> float:
    """In the currency of `core_hour`, for a million tokens delivered to all their viewers."""
    cpu_s = sum(token_us(laws, part, load) for part in PARTS)  # microseconds a token are seconds a million
    return cpu_s / 3600 / load.busy * load.core_hour


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m loadtest.bench capacity",
        description="What to run for how many streams, from what was measured.",
    )
    made.add_argument("growth", metavar="GROWTH.json", type=Path, help="written by `growth --json`")
    made.add_argument("--rate", type=positive, default=Load.rate, metavar="TOKENS", help="a second (20)")
    made.add_argument("--length", type=positive, default=Load.length, metavar="TOKENS", help="an answer (500)")
    made.add_argument("--viewers", type=positive, default=Load.viewers, metavar="N", help="of a stream (1)")
    made.add_argument("--busy", type=positive, default=Load.busy, metavar="SHARE", help="of a core, used (0.6)")
    made.add_argument("--core-hour", type=positive, default=Load.core_hour, metavar="PRICE", help="in $ (0.04)")
    made.add_argument("--retention", type=positive, default=Load.retention_s, metavar="S", help="of logs (3600)")
    output.arguments(made, "capacity")
    return made


def main(argv: list[str] | None = None) -> int:
    made = parser()
    options = made.parse_args(argv)
    try:
        measured = json.loads(options.growth.read_text(encoding="utf-8"))
        laws = {name: fit.Line.from_object(law) for name, law in measured["laws"].items()}
        largest = measured["series"]["streams"][-1]
        sent = measured["series"]["viewers"][0]["bytes_an_event"]
        edge_kib = largest["edge_kib"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        made.error(f"{options.growth} was not written by `growth --json`: {type(error).__name__}: {error}")
    load = Load(
        rate=options.rate, length=options.length, viewers=options.viewers, busy=min(options.busy, 1.0),
        core_hour=options.core_hour, retention_s=options.retention, bytes_an_event=sent,
    )  # fmt: skip
    examples = {str(number): vars(need(laws, replace(load, streams=number), edge_kib)) for number in EXAMPLES}
    carried = {part: streams_a_core(laws, part, load) for part in PARTS}
    whole = {"load": vars(load), "examples": examples, "streams_a_core": carried}
    where = f"From {output.provenance(measured)}"
    output.deliver(options, whole, f"{as_markdown(laws, load, edge_kib)}\n\n{where}")
    return 0


def as_markdown(laws: Laws, load: Load, edge_kib: float) -> str:
    assumed = (
        f"Assumed: {load.rate:g} tokens a second of a stream, {load.length:g} tokens an answer, {load.viewers:g} "
        f"viewer(s) of each, cores used to {load.busy:.0%}, logs kept for {load.retention_s:,.0f} s, "
        f"${load.core_hour:g} a core-hour."
    )
    return "\n\n".join((assumed, _cores(laws, load), _costs(laws, load), _examples(laws, load, edge_kib)))


def _cores(laws: Laws, load: Load) -> str:
    head = (
        "one core of",
        "CPU a token, µs",
        "of it beginning and end of the answer",
        "streams it carries",
        "tokens a second",
    )
    rows = []
    for part, name in zip(PARTS, ("an edge", "a worker", "Redis"), strict=True):
        each, streams = token_us(laws, part, load), streams_a_core(laws, part, load)
        share = laws[f"{part}_an_answer"].fixed / load.length
        rows.append((name, f"{each:.1f}", f"{share:.1f}", f"{streams:,}", f"{streams * load.rate:,.0f}"))
    return output.table(head, rows)


def _costs(laws: Laws, load: Load) -> str:
    lengths, viewers = (50, 200, 500, 2000), (1, 10, 100)
    head = (
        "a million tokens, CPU-seconds and $",
        *(f"{number} viewer{'s' if number > 1 else ''}" for number in viewers),
    )
    rows = []
    for length in lengths:
        cells = []
        for number in viewers:
            one = replace(load, length=length, viewers=number)
            cpu_s = sum(token_us(laws, part, one) for part in PARTS)
            cells.append(f"{cpu_s:,.0f} s, ${cost_a_million(laws, one):,.4f}")
        rows.append((f"answers of {length:,} tokens", *cells))
    return output.table(head, rows)


def _examples(laws: Laws, load: Load, edge_kib: float) -> str:
    head = (
        "streams at once",
        "tokens a second",
        "edges",
        "workers",
        "Redis servers",
        "edge memory",
        "Redis memory",
        "out",
        "$ an hour",
    )
    rows = []
    for number in EXAMPLES:
        one = replace(load, streams=number)
        needs = need(laws, one, edge_kib)
        edges, workers = math.ceil(needs.edge), math.ceil(needs.worker)
        price = (edges + workers + needs.cells) * load.core_hour
        rows.append((
            f"{number:,}", f"{one.tokens_a_second:,.0f}", f"{edges:,}", f"{workers:,}", f"{needs.cells:,}",
            f"{needs.edge_gib:,.1f} GiB", f"{needs.redis_log_gib:,.1f} + {needs.redis_remains_gib:,.1f} GiB",
            f"{needs.gbit_a_second:,.2f} Gbit/s", f"${price:,.2f}",
        ))  # fmt: skip
    return (
        output.table(head, rows)
        + "\n\nProcesses of one core each. Redis memory: logs, and what is left of them for a day."
    )


if __name__ == "__main__":
    sys.exit(main())
