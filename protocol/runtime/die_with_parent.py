"""Starts a child process that dies with its parent: a launcher that execs the command. Knows no command.

    parent ──fork, exec──▶ python die_with_parent.py ──exec──▶ the command        one pid all the way

`subprocess`'s `preexec_fn` would save the launcher's 20 ms, but it runs Python between fork and exec, which can
deadlock once any thread exists (and on Python 3.11 asyncio itself waits for children in threads).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def tied(command: Sequence[str], sig: signal.Signals = signal.SIGKILL) -> list[str]:
    """`command`, to be started by this process and by a thread that lives as long as it should.

    prctl(2): the "parent" is the *thread* that forked. Elsewhere than on Linux the command comes back as it is.
    """
    if sys.platform != "linux":
        return list(command)
    # -I -S: nothing of the environment and no site-packages, so that the launcher starts in milliseconds.
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(sig)), *command]


def main(arguments: Sequence[str]) -> None:
    parent, sig, program, *rest = arguments
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(sig), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != int(parent):
        return  # the parent died before it could be watched: prctl would wait for ever for a death that has been
    os.execv(program, [program, *rest])  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    main(sys.argv[1:])
