"""`python -m workers`: one worker, or several on one box."""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import signal
import sys
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Final

from pydantic import ValidationError

from protocol import catalogue
from workers import listener, process
from workers.settings import Settings

RESTART_S: Final = (0.5, 10.0)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m workers", description="Run a worker of Tokenrelay.")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="workers on this box (default 1)")
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.processes <= 256:
        parser.error("--processes takes 1 to 256")
    try:
        settings = Settings()
        catalogue.parse(settings.catalogue.read_text(encoding="utf-8"))
    except ValidationError as error:
        for fault in error.errors():
            name = "_".join(map(str, fault["loc"])).upper()
            name = name if name.endswith("_API_KEY") else f"TOKENRELAY_{name}"
            print(f"{name}: {fault['msg']}", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(f"TOKENRELAY_CATALOGUE: {error}", file=sys.stderr)
        return 2
    try:
        if arguments.processes == 1:
            process.run(settings)
            return 0
        return _run_many(settings, arguments.processes)
    except OSError as error:
        print(f"cannot listen on {settings.metrics_host}:{settings.metrics_port}: {error.strerror}", file=sys.stderr)
        return 1


def _run_many(settings: Settings, number: int) -> int:
    """Children that are started again when they die, until a signal; then they are told and waited for."""
    context = multiprocessing.get_context("spawn")
    counts = Path(tempfile.mkdtemp(prefix="tokenrelay-worker-counts-"))
    # Held, not listened on: it finds a port taken before any child starts.
    holder = None
    if settings.metrics_port:
        holder = listener.bind(settings.metrics_host, settings.metrics_port, is_shared=True)
    stopping = False

    def stop(*_: int | FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    children: list[BaseProcess | None] = [None] * number
    pause, started = RESTART_S[0], 0.0
    while not stopping:
        dead = [index for index, child in enumerate(children) if child is None or not child.is_alive()]
        if dead and time.monotonic() - started >= pause:
            pause = RESTART_S[0] if time.monotonic() - started > 60 or not started else min(pause * 2, RESTART_S[1])
            started = time.monotonic()
            for index in dead:
                children[index] = context.Process(target=process.run_child, args=(settings, counts, index))
                children[index].start()  # type: ignore[union-attr]
        time.sleep(0.1)
    alive = [child for child in children if child is not None and child.is_alive()]
    for child in alive:
        child.terminate()
    deadline = time.monotonic() + settings.finish_s + 3 * process.FLUSH_S
    for child in alive:
        child.join(max(0.1, deadline - time.monotonic()))
        if child.is_alive():
            child.kill()
    if holder is not None:
        holder.close()
    shutil.rmtree(counts, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
