"""`python -m loadtest.bench`, which is `tokenrelay bench`: runs every measurement, prints the table with its bars.

Exit 0 when every bar is met, 1 when one is missed, 2 when it could not run.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Final, TypeAlias

from loadtest import machine
from loadtest.bench import measure, table
from loadtest.fleet import CannotStart, Fleet

BUILDS: Final = ("naive",)
PLANNED: Final = ("stock-arq", "nchan", "socketio")

COMMANDS: Final = {
    "idle": "thousands of waiting connections on one edge",
    "growth": "what it costs with more streams, more viewers, longer answers",
    "capacity": "what machines a load takes, from the output of growth",
    "soak": "half an hour of streams of all kinds, under which nothing may grow",
}

Values: TypeAlias = dict[str, list[float]]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="tokenrelay bench",
        description="Starts fleets of its own on this machine, measures them, and prints every figure beside its bar.",
    )
    made.add_argument("--quick", action="store_true", help="one run of each, smaller: shows the way, is no evidence")
    made.add_argument(
        "--compare", metavar="NAME", type=build, help=f"measure another build in the same run: {', '.join(BUILDS)}"
    )
    made.add_argument("--json", metavar="FILE", type=Path, help="write the table there as well")
    made.add_argument("--only", metavar="NAME", nargs="+", choices=sorted(names()), help=", ".join(names()))
    return made


def names() -> dict[str, measure.Measurement]:
    return {measurement.__name__: measurement for measurement in measure.MEASUREMENTS}


def build(name: str) -> str:
    if name in PLANNED:
        raise argparse.ArgumentTypeError(f"{name} is not built yet; there is: {', '.join(BUILDS)}")
    if name not in BUILDS:
        raise argparse.ArgumentTypeError(f"unknown build {name!r}; there is: {', '.join(BUILDS)}")
    return name


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] in COMMANDS:
        module = importlib.import_module(f"loadtest.bench.{words[0]}")
        return int(module.main(words[1:]))
    made = parser()
    options = made.parse_args(argv)
    if options.json and not options.json.absolute().parent.is_dir():
        made.error(f"there is no folder {options.json.absolute().parent}")
    chosen = [names()[name] for name in options.only] if options.only else list(measure.MEASUREMENTS)
    size, runs = (measure.QUICK, 1) if options.quick else (measure.FULL, 3)
    about = machine.describe()
    ours: Values = {}
    naive: Values = {}
    stopped = False
    failures: list[str] = []
    try:
        failures = collect(ours, naive, chosen, size, runs, with_naive=options.compare == "naive")
    except CannotStart as error:
        print(f"tokenrelay bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(" stopped; what there is so far:", file=sys.stderr)
        stopped = True
    rows = table.rows(ours, naive)
    print(table.as_text(rows, bool(naive)))
    print("; ".join(f"{name}: {value}" for name, value in about.items()))
    if options.quick:
        print("--quick: small sizes, one run; no evidence for or against a bar")
    if options.json:
        whole = {"quick": options.quick, "runs": runs, "machine": about, "rows": rows}
        options.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    print("\n".join(failures), end="\n" if failures else "", file=sys.stderr)
    if stopped or failures:
        return 130 if stopped else 2
    return 1 if any(row["met"] is False for row in rows) and not options.quick else 0


def collect(
    ours: Values, naive: Values, chosen: list[measure.Measurement], size: measure.Size, runs: int, *, with_naive: bool
) -> list[str]:
    """Fills in ours and the naive build's, alternating, so that what disturbs the machine disturbs both. Gives what
    could not be measured; the rest is."""
    failures: list[str] = []
    for measurement in chosen:
        for run in range(runs):
            for kind, values in ((Fleet, ours), (measure.NaiveFleet, naive)):
                if kind is Fleet or (with_naive and measurement in measure.OF_NAIVE):
                    says = f"{'naive, ' if kind is not Fleet else ''}run {run + 1} of {runs}"
                    try:
                        add(values, once(measurement, size, kind, says))
                    except RuntimeError as error:
                        failures.append(f"{measurement.__name__} ({says}) could not be measured: {error}")
                        print(f" failed: {error}", file=sys.stderr)
    if naive.get("fan_out") and ours.get("fan_out"):
        ours["fan_out_ratio"] = [value / median(naive["fan_out"]) for value in ours["fan_out"]]
    return failures


def once(measurement: measure.Measurement, size: measure.Size, kind: measure.Kind, says: str) -> measure.Values:
    begun = time.perf_counter()
    print(f"{measurement.__name__} ({says}) …", end="", file=sys.stderr, flush=True)
    values = measurement(size, kind)
    print(f" {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    return values


def add(all_values: Values, values: measure.Values) -> None:
    for name, value in values.items():
        all_values.setdefault(name, []).append(value)


if __name__ == "__main__":
    sys.exit(main())
