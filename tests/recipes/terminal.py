"""A terminal in which a reader runs one block of a page, ended by Ctrl-C. Knows nothing of what the block does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

WAIT_S: Final = 60.0
"""For a whole stack to start, or to end, on a busy machine."""


class Terminal:
    """What the commands in it have printed, in a file, so that no pipe fills."""

    def __init__(self, process: subprocess.Popen[bytes], screen: Path) -> None:
        self._process = process
        self._screen = screen

    @property
    def said(self) -> str:
        return self._screen.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, words: str) -> None:
        """Until it shows this. Raises AssertionError when it ends before, or after WAIT_S."""
        until = time.monotonic() + WAIT_S
        while words not in self.said:
            assert self._process.poll() is None, f"it ended without {words!r}: {self.said}"
            assert time.monotonic() < until, f"no {words!r} in {WAIT_S:g} s: {self.said}"
            time.sleep(0.05)

    def press_ctrl_c(self) -> None:
        """And wait until all that ran in it is gone: its output has no writer left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGINT)
        self._process.wait(WAIT_S)


@contextlib.contextmanager
def terminal(code: str, folder: Path, screen: Path, env: Mapping[str, str]) -> Iterator[Terminal]:
    """A shell that runs the block in this folder; its process group is killed at the end of the `with` block."""
    with (
        screen.open("wb") as output,
        subprocess.Popen(
            ["bash", "-c", code],
            cwd=folder,
            env=os.environ | dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_take_control_c,
        ) as process,
    ):
        opened = Terminal(process, screen)
        try:
            yield opened
            opened.press_ctrl_c()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _take_control_c() -> None:
    # Who started the tests in the background has SIGINT ignored, and so would the commands.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
