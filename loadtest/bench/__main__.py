"""`python -m loadtest.bench`, which is `tokenrelay bench`: runs every measurement and prints the table.

Exit 0 when every target is met, 1 when one is missed, 2 when it could not run.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from statistics import median
from typing import Final, TypeAlias

from tokenrelay.loadtest import machine
from tokenrelay.loadtest.arguments import count
from tokenrelay.loadtest.bench import builds, measure, output, table
from tokenrelay.loadtest.fleet import CannotStart, Fleet

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
        "--compare",
        metavar="NAMES",
        type=builds.named,
        default=[],
        help=f"measure other builds in the same run: {', '.join(builds.BUILDS)}, all",
    )
    made.add_argument("--runs", metavar="N", type=count, default=3, help="of each measurement (3)")
    made.add_argument("--only", metavar="NAME", nargs="+", choices=sorted(names()), help=", ".join(names()))
    output.arguments(made, "bench")
    return made


def names() -> dict[str, measure.Measurement]:
    return {measurement.__name__: measurement for measurement in measure.MEASUREMENTS}


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] in COMMANDS:
        module = importlib.import_module(f"tokenrelay.loadtest.bench.{words[0]}")
        return int(module.main(words[1:]))
    options = parser().parse_args(argv)
    chosen = [names()[name] for name in options.only] if options.only else list(measure.MEASUREMENTS)
    size, runs = (measure.QUICK, 1) if options.quick else (measure.FULL, options.runs)
    mark = " ".join(["bench", *(options.only or ())])
    if options.doc:
        try:
            output.marked(mark)(str(options.doc))
        except argparse.ArgumentTypeError as error:
            print(f"tokenrelay bench: {error}", file=sys.stderr)
            return 2
    about = machine.describe()
    ours: Values = {}
    others: dict[str, Values] = {}
    stopped = False
    failures: list[str] = []
    try:
        for name in available(options.compare, failures):
            others[name] = {}
        failures += collect(ours, others, chosen, size, runs)
    except CannotStart as error:
        print(f"tokenrelay bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(" stopped; what there is so far:", file=sys.stderr)
        stopped = True
    rows = table.rows(ours, others)
    whole = {
        "command": output.command("", argv), "date": output.today(), "quick": options.quick, "runs": runs,
        "machine": about, "rows": rows, "failures": failures,
    }  # fmt: skip
    print(table.as_text(rows, list(others)))
    print("; ".join(f"{name}: {value}" for name, value in about.items()))
    if options.quick:
        print("--quick: small sizes, one run; no evidence for or against a bar")
    if options.json:
        options.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    if options.doc:
        said = f"Median and spread of {runs} runs. " if runs > 1 else "One run. "
        output.fill(options.doc, mark, f"{table.as_markdown(rows, list(others))}\n\n{said}{output.provenance(whole)}")
    print("\n".join(failures), end="\n" if failures else "", file=sys.stderr)
    if stopped or failures:
        return 130 if stopped else 2
    return 1 if any(row["met"] is False for row in rows) and not options.quick else 0


def available(wanted: list[str], failures: list[str]) -> list[str]:
    """Those that can run here. Of the others it is said what to install; the run goes on without them."""
    there: list[str] = []
    for name in wanted:
        try:
            builds.BUILDS[name].kind.prepare()
            there.append(name)
        except CannotStart as error:
            failures.append(f"{name} is left out: {error}")
            print(failures[-1], file=sys.stderr)
    return there


def collect(
    ours: Values, others: dict[str, Values], chosen: list[measure.Measurement], size: measure.Size, runs: int
) -> list[str]:
    """Fills in ours and the others', alternating, so that what disturbs the machine disturbs all. Gives what could not
    be measured; the rest is."""
    failures: list[str] = []
    for measurement in chosen:
        name = measurement.__name__
        for run in range(runs):
            says = f"run {run + 1} of {runs}"
            attempt(ours, measurement, size, Fleet, says, None, failures)
            for other, values in others.items():
                build = builds.BUILDS[other]
                if name in build.measured:
                    attempt(values, measurement, size, build.kind, f"{other}, {says}", build.measured[name], failures)
    naive = others.get("naive", {})
    if naive.get("fan_out") and ours.get("fan_out"):
        ours["fan_out_ratio"] = [value / median(naive["fan_out"]) for value in ours["fan_out"]]
    return failures


def attempt(
    values: Values,
    measurement: measure.Measurement,
    size: measure.Size,
    kind: measure.Kind,
    says: str,
    figures: frozenset[str] | None,
    failures: list[str],
) -> None:
    """`figures`: only those count (None: all)."""
    try:
        measured = once(measurement, size, kind, says)
    except RuntimeError as error:
        failures.append(f"{measurement.__name__} ({says}) could not be measured: {error}")
        print(f" failed: {error}", file=sys.stderr)
        return
    add(values, {name: value for name, value in measured.items() if figures is None or name in figures})


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
