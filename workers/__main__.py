"""`python -m workers`: one worker, or several on one box."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys

from pydantic import ValidationError

from tokenrelay.protocol.models import catalogue
from tokenrelay.protocol.runtime import children, logs
from tokenrelay.protocol.runtime.settings import faults, warn_of_unknown
from tokenrelay.workers import metrics_endpoint, open_providers, process
from tokenrelay.workers.settings import Settings


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m workers", description="Run a worker of Tokenrelay.")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="workers on this box (default 1)")
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.processes <= 256:
        parser.error("--processes takes 1 to 256")
    try:
        settings = Settings()
        text = settings.catalogue.read_text(encoding="utf-8")
        rows = catalogue.parse(text)
        if settings.handlers_required and (issue := open_providers.unusable_handler(text, rows)):
            raise ValueError(f"{settings.catalogue}, {issue}")
    except ValidationError as error:
        print("\n".join(faults(error)), file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(f"TOKENRELAY_CATALOGUE: {error}", file=sys.stderr)
        return 2
    logs.configure(settings.log_level, settings.log_format)
    warn_of_unknown(os.environ)
    try:
        if arguments.processes == 1:
            process.run(settings)
            return 0
        return _run_many(settings, arguments.processes)
    except OSError as error:
        print(f"cannot listen on {settings.metrics_host}:{settings.metrics_port}: {error.strerror}", file=sys.stderr)
        return 1


def _run_many(settings: Settings, number: int) -> int:
    with contextlib.ExitStack() as stack:
        if settings.metrics_port:  # held, not listened on: it finds a port taken before any child starts
            stack.enter_context(metrics_endpoint.bind(settings.metrics_host, settings.metrics_port, is_shared=True))
        children.run(process.run_child, settings, number, settings.finish_s + 3 * process.FLUSH_S)
    return 0


if __name__ == "__main__":
    sys.exit(main())
