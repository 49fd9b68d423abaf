"""`make cluster`: three primaries and three replicas on this machine, until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import sys
import threading
from pathlib import Path

from tests.cluster.servers import NODE_TIMEOUT_MS, Servers


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--primaries", type=int, default=3)
    parser.add_argument("--replicas", type=int, default=1, help="of each primary (default 1)")
    parser.add_argument(
        "--node-timeout", type=int, default=NODE_TIMEOUT_MS, metavar="MS", help="until a server counts as dead"
    )
    parser.add_argument("--server", default="", help="a redis-server or valkey-server in place of the bundled Valkey")
    given = parser.parse_args()
    binary = Path(found) if (found := shutil.which(given.server)) else None
    if given.server and binary is None:
        parser.error(f"no {given.server} on this machine")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        servers = Servers(given.primaries, given.replicas, binary=binary, node_timeout_ms=given.node_timeout)
        with servers:
            tell(servers)
            threading.Event().wait()
    return 0


def tell(servers: Servers) -> None:
    for server in servers.all:
        role = "primary" if server.is_primary() else f"replica of {int(server.ask('ROLE')[2])}"
        print(f"  {server.place}  {role}")
    print("\nReady. In other terminals, a worker and an edge on it:\n")
    settings = f"TOKENRELAY_REDIS_URL={servers.url} TOKENRELAY_SCRIPTED=1"
    print(f"  {settings} .venv/bin/python -m workers")
    print(f"  {settings} .venv/bin/python -m server --port 8000")
    print("\nCtrl-C ends it.", flush=True)


if __name__ == "__main__":
    sys.exit(main())
