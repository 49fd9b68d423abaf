"""`python -m server`: one edge, or several on one box, each with a socket of its own on the same port."""

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

from server import process
from server.auth import must_read
from server.settings import Refused, Settings, check_exposure

RESTART_S: Final = (0.5, 10.0)


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
        must_read(settings)
    except ValidationError as error:
        for fault in error.errors():
            name = "TOKENRELAY_" + "_".join(map(str, fault["loc"])).upper()
            print(f"{name}: {fault['msg']}", file=sys.stderr)
        return 2
    except Refused as error:
        print(error, file=sys.stderr)
        return 2
    try:
        if arguments.processes == 1:
            process.run(settings, process.bind(settings))
            return 0
        return _run_many(settings, arguments.processes)
    except OSError as error:
        print(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}", file=sys.stderr)
        return 1


def _run_many(settings: Settings, number: int) -> int:
    """Children that are started again when they die, until a signal; then they are told and waited for."""
    context = multiprocessing.get_context("spawn")
    # Held, not listened on: it fixes the port (0 becomes a number) and finds a port taken before any child starts.
    holder = process.bind(settings)
    settings = settings.model_copy(update={"port": holder.getsockname()[1]})
    counts = Path(tempfile.mkdtemp(prefix="tokenrelay-edge-counts-"))
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
    deadline = time.monotonic() + settings.drain_s + 2 * process.AFTER_DRAIN_S
    for child in alive:
        child.join(max(0.1, deadline - time.monotonic()))
        if child.is_alive():
            child.kill()
    holder.close()
    shutil.rmtree(counts, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
