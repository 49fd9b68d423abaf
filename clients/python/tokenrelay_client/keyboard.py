"""What is typed while an answer is being written. Knows terminals, and no stream."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Final

LOCAL_MODES: Final = 3
"""Of what tcgetattr gives: [iflag, oflag, cflag, lflag, …]."""


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """It is not shown, since that would tear apart what is drawn there; it waits for the next prompt. Ctrl-C works
    on."""
    try:
        import termios
    except ImportError:  # Windows
        yield
        return
    try:
        keyboard = sys.stdin.fileno()
        before = termios.tcgetattr(keyboard)
        # One in the background would be stopped for changing the terminal of whoever is in front of it (SIGTTOU).
        is_ours = os.tcgetpgrp(keyboard) == os.getpgrp()
    except (OSError, ValueError, termios.error):  # a pipe, or closed
        is_ours, keyboard, before = False, -1, []
    if not is_ours:
        yield
        return
    changed = [*before]
    changed[LOCAL_MODES] &= ~termios.ECHO
    termios.tcsetattr(keyboard, termios.TCSANOW, changed)
    try:
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSANOW, before)
