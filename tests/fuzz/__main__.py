"""`python -m tests.fuzz --minutes N`: the cases with new seeds, then two edges behind nginx. Ends at a fault."""

from __future__ import annotations

import argparse
import random
import secrets
import sys
import time

from tests.fuzz import cases, proxied, stored

CASES = cases.CASES | stored.CASES


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Random input for what strangers reach.")
    parser.add_argument("--minutes", type=float, default=5.0, help="for how long (default 5)")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="where to begin")
    arguments = parser.parse_args()
    seconds = arguments.minutes * 60
    print(f"seeds from {arguments.seed} on, for {arguments.minutes:g} minutes", flush=True)
    ends_at, seed = time.monotonic() + seconds / 2, arguments.seed
    while time.monotonic() < ends_at:
        for name, case in CASES.items():
            try:
                case(random.Random(seed))
            except Exception as error:
                print(f"{name}, seed {seed}: {error!r}", file=sys.stderr)
                return 1
        seed += 1
    print(f"{seed - arguments.seed} rounds of {len(CASES)} cases hold", flush=True)
    fault, count = proxied.run(random.Random(seed), seconds / 2)
    print(fault or f"{count} connections of strangers through nginx left the callers with keys their own answers")
    return 1 if fault else 0


if __name__ == "__main__":
    sys.exit(main())
