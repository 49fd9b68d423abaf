"""`python -m tests.conformance`: official clients, unmodified, against a real fleet; a table of client by case.

--install         only make the environments
--subset          those that `make test` runs
--only NAME …     these
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from tests.conformance import environments, runner
from tests.conformance.environments import Client, Missing


def main() -> int:
    """1 where any case failed or a client could not be installed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance", description="Official clients against a fleet."
    )
    parser.add_argument("--install", action="store_true", help="only make the environments")
    parser.add_argument("--subset", action="store_true", help="only the clients that `make test` runs")
    parser.add_argument("--only", nargs="+", choices=[client.name for client in environments.clients()], default=[])
    asked = parser.parse_args()
    wanted = [each for each in environments.clients(subset=asked.subset) if not asked.only or each.name in asked.only]
    missing = install(wanted)
    for name, issue in missing.items():
        print(f"conformance: {name} is not there: {issue}", file=sys.stderr)
    if asked.install:
        return 0 if asked.subset else bool(missing)  # the tests of the subset say themselves what they miss
    outcomes: dict[str, runner.Outcome] = {}
    with runner.stack() as stack:
        for client in wanted:
            if client.name not in missing:
                print(f"conformance: {client.name}", flush=True)
                outcomes[client.name] = stack.run(client)
    for name, case, issue in runner.failures(outcomes):
        print(f"\n{name}, {case}:\n{issue}")
    print(f"\n{runner.table(outcomes)}")
    return int(bool(missing) or bool(runner.failures(outcomes)) or not outcomes)


def install(wanted: list[Client]) -> dict[str, str]:
    """Gives what is missing, and why."""
    missing: dict[str, str] = {}
    for client in wanted:
        if environments.is_installed(client):
            continue
        print(f"conformance: installing {', '.join(client.packages)}", flush=True)
        try:
            environments.install(client)
        except Missing as error:
            missing[client.name] = f"it needs {error}"
        except (subprocess.SubprocessError, OSError) as error:
            said = getattr(error, "stderr", "") or str(error)
            missing[client.name] = said.strip()[-600:]
    return missing


if __name__ == "__main__":
    sys.exit(main())
