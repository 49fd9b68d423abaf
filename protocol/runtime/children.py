"""Several child processes on one machine: restarted when they die, told to stop, and waited for."""

from __future__ import annotations

import multiprocessing
import signal
import tempfile
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, Final

RESTART_S: Final = (0.5, 10.0)
"""The pause before those that died are started again, and what it grows to while they go on dying."""

STEADY_S: Final = 60.0
_LOOK_S: Final = 0.1


def run(target: Callable[..., None], settings: Any, number: int, patience_s: float) -> None:
    """Each runs `target(settings, folder, index)`; `folder` is theirs alone, empty at first. Returns after a SIGTERM
    or SIGINT, once all are gone or were killed because they took longer than `patience_s` for it."""
    stopping = False

    def stop(*_: int | FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    context = multiprocessing.get_context("spawn")
    children: list[BaseProcess | None] = [None] * number
    pause, started = RESTART_S[0], 0.0
    with tempfile.TemporaryDirectory(prefix="tokenrelay-counts-", ignore_cleanup_errors=True) as folder:
        while not stopping:
            dead = [index for index, child in enumerate(children) if child is None or not child.is_alive()]
            ago_s = time.monotonic() - started
            if dead and ago_s >= pause:
                pause = RESTART_S[0] if ago_s > STEADY_S or not started else min(pause * 2, RESTART_S[1])
                started = time.monotonic()
                for index in dead:
                    new = context.Process(target=target, args=(settings, Path(folder), index))
                    new.start()
                    children[index] = new
            time.sleep(_LOOK_S)
        alive = [child for child in children if child is not None and child.is_alive()]
        for child in alive:
            child.terminate()
        deadline = time.monotonic() + patience_s
        for child in alive:
            child.join(max(0.1, deadline - time.monotonic()))
            if child.is_alive():
                child.kill()
                child.join()
