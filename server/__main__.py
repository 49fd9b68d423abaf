"""`python -m server`: one edge, or several on one box, each with a socket of its own on the same port."""

from __future__ import annotations

import argparse
import os
import sys

import structlog
from pydantic import ValidationError

from tokenrelay.protocol.runtime import children, logs
from tokenrelay.protocol.runtime.settings import faults, warn_of_unknown
from tokenrelay.server import process
from tokenrelay.server.access.auth import check_files
from tokenrelay.server.settings import SHORT_SECRET, Refused, Settings, check_exposure, weak_keys

log = structlog.get_logger()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m server", description="Run an edge of Tokenrelay.")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="edges on this box (default 1)")
    parser.add_argument("--host", help="address to listen on (default TOKENRELAY_HOST or 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (default TOKENRELAY_PORT or 8000)")
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.processes <= 256:
        parser.error("--processes takes 1 to 256")
    given = {name: value for name in ("host", "port") if (value := getattr(arguments, name)) is not None}
    try:
        settings = Settings(**given)
        check_exposure(settings)
        check_files(settings)
    except ValidationError as error:
        print("\n".join(faults(error)), file=sys.stderr)
        return 2
    except Refused as error:
        print(error, file=sys.stderr)
        return 2
    logs.configure(settings.log_level, settings.log_format)
    warn_of_unknown(os.environ)
    for name in weak_keys(settings):
        log.warning("short_secret", key=name, advice=f"use {SHORT_SECRET} characters or more; `tokenrelay keys add`")
    try:
        if arguments.processes == 1:
            process.run(settings, process.bind(settings))
            return 0
        return _run_many(settings, arguments.processes)
    except OSError as error:
        print(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}", file=sys.stderr)
        return 1


def _run_many(settings: Settings, number: int) -> int:
    # Held, not listened on: it fixes the port (0 becomes a number) and finds a port taken before any child starts.
    with process.bind(settings) as holder:
        settings = settings.model_copy(update={"port": holder.getsockname()[1]})
        children.run(process.run_child, settings, number, settings.drain_s + 2 * process.AFTER_DRAIN_S)
    return 0


if __name__ == "__main__":
    sys.exit(main())
