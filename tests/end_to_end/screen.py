"""A terminal for tests: a real pty with a program in it, and what a person would see on its screen."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping
from types import TracebackType

import pyte

PATIENCE_S = 20.0
COLUMNS, LINES = 80, 24


class Terminal:
    """`with Terminal([...], env) as terminal: terminal.wait_for("> ")`. The program has it as its controlling terminal,
    so that `\\x03` typed is Ctrl-C."""

    def __init__(
        self,
        command: list[str],
        env: Mapping[str, str],
        columns: int = COLUMNS,
        lines: int = LINES,
        kind: str = "xterm-256color",
    ) -> None:
        self._screen = pyte.HistoryScreen(columns, lines, history=10_000)
        self._stream = pyte.ByteStream(self._screen)
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        _keep_output_at_control_c(slave)
        # A size in the environment would count for more than the terminal's own.
        ours = {name: value for name, value in env.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env={**ours, "TERM": kind, "LANG": "C.UTF-8"},
            start_new_session=True, preexec_fn=_own_terminal,
        )  # fmt: skip
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)
        os.close(self._master)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    @property
    def screen(self) -> str:
        """What is to be seen now."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    @property
    def everything(self) -> str:
        """What can be seen by scrolling up, too."""
        above = ["".join(row[at].data for at in range(self._screen.columns)) for row in self._screen.history.top]
        return "\n".join(line.rstrip() for line in [*above, *self._screen.display]).rstrip()

    def style(self, text: str) -> set[str]:
        """How the first place of `text` on the screen is drawn: its colour and `bold`, `italics`, `underscore`."""
        for number, line in enumerate(self._screen.display):
            if (at := line.find(text)) >= 0:
                cell = self._screen.buffer[number][at]
                names = ("bold", "italics", "underscore", "strikethrough")
                return {cell.fg, *(name for name in names if getattr(cell, name))}
        raise AssertionError(f"not to be seen: {text}\n{self.screen}")

    @property
    def title(self) -> str:
        return str(self._screen.title)

    @property
    def is_as_it_was(self) -> bool:
        """What is typed is shown, and so is the cursor."""
        return bool(termios.tcgetattr(self._master)[3] & termios.ECHO) and not self._screen.cursor.hidden

    def clear(self) -> None:
        """As one who looks away: only what is shown from now on is seen, and the line of the prompt."""
        line = self._screen.display[self._screen.cursor.y].rstrip()
        self._screen.reset()
        self._stream.feed(f"{line} ".encode())

    def wait_for(self, text: str) -> None:
        self.wait_until(lambda: text in self.screen, text)

    def wait_for_prompt(self) -> None:
        self.wait_until(lambda: self._screen.display[self._screen.cursor.y].rstrip() == ">", "the prompt")

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline, f"never seen: {what}\n{self.screen}"
            self._read(0.1)

    def wait_for_exit(self) -> int:
        """The exit code, with all that was said until then."""
        deadline = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end\n{self.screen}"
            self._read(0.1)
        while self._read(0):
            pass
        return self.process.returncode

    def _read(self, timeout: float) -> bool:
        """Take what it writes; False when there is nothing."""
        if not select.select([self._master], [], [], timeout)[0]:
            return False
        try:
            data = os.read(self._master, 65_536)
        except OSError:  # EIO: nobody has the other side open any more
            return False
        self._stream.feed(data)
        return bool(data)


def _keep_output_at_control_c(slave: int) -> None:
    """A terminal throws away what was written and not read yet when Ctrl-C is typed; a slow test would miss lines."""
    attributes = termios.tcgetattr(slave)
    attributes[3] |= termios.NOFLSH
    termios.tcsetattr(slave, termios.TCSANOW, attributes)


def _own_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    # Who started us in the background has SIGINT ignored, and so would our children.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def chat(url: str, *options: str) -> list[str]:
    """The command of `tokenrelay chat`."""
    return [sys.executable, "-m", "tokenrelay.server.cli", "chat", "--url", url, *options]
