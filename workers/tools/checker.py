"""Holds values against JSON Schemas of others, in a child process that is killed when one takes too long.

A schema's `pattern` may backtrack for ever, and `re` keeps the GIL meanwhile: in a thread it would stop the loop too.

    loop ── {"value": …, "schema": …} a line ──▶ child ── the issue or null, a line ──▶ loop
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from tokenrelay.protocol.runtime.die_with_parent import tied
from tokenrelay.workers.tools import arguments

CHECK_S: Final = 1.0
"""CPU time that one check may take; the child is ended then and the next check begins another."""
ANSWER_S: Final = 10.0
"""How long an answer may take by the clock: the check, on a machine that is busy with other work."""
START_S: Final = 15.0
"""A child's start: an interpreter and its imports, on a busy machine."""
WAIT_S: Final = 5.0
"""How long a check waits for those before it."""


class CheckFailed(Exception):
    """It could not be told whether the value fits. The message is for the model."""


class Checker:
    """One child at most, begun with the first check. Owned by the toolbox, which closes it."""

    def __init__(self, check_s: float = CHECK_S) -> None:
        self._check_s = check_s
        self._child: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Checker {'at work' if self._child else 'not begun'}>"

    async def issue(self, value: Any, schema: Mapping[str, Any]) -> str | None:
        """What is wrong with the value; None when it fits. Raises CheckFailed."""
        question = msgspec.json.encode({"value": value, "schema": schema, "cpu_s": self._check_s}) + b"\n"
        try:
            async with asyncio.timeout(WAIT_S):
                await self._turn.acquire()
        except TimeoutError as error:
            raise CheckFailed("there are too many arguments to check now") from error
        is_whole = False
        try:
            answer = await self._ask(question)
            is_whole = True
        except TimeoutError as error:
            raise CheckFailed("the arguments could not be checked in time") from error
        except OSError as error:
            raise CheckFailed("the arguments could not be checked") from error
        finally:
            if not is_whole:  # also when cancelled: its answer would be taken for the next one's
                self._kill()
            self._turn.release()
        return answer

    async def _ask(self, question: bytes) -> str | None:
        """Raises TimeoutError, OSError."""
        child = self._child
        if child is None or child.returncode is not None:
            async with asyncio.timeout(START_S):
                child = await self._begin()
        if child.stdin is None or child.stdout is None:
            raise ConnectionResetError("the child has no pipes")
        async with asyncio.timeout(ANSWER_S):
            child.stdin.write(question)
            await child.stdin.drain()
            line = await child.stdout.readline()
            if not line.endswith(b"\n") and await child.wait() == -signal.SIGPROF:
                raise TimeoutError
        if not line.endswith(b"\n"):
            raise ConnectionResetError("the child ended")
        return msgspec.json.decode(line, type=str | None)

    async def _begin(self) -> asyncio.subprocess.Process:
        child = await asyncio.create_subprocess_exec(
            *tied([sys.executable, "-m", __name__]),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C is for its parent
        )
        self._child = child
        if child.stdout is not None:
            await child.stdout.readline()  # ready: from here on time is the check's own
        return child

    def _kill(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()

    async def close(self) -> None:
        child = self._child
        self._kill()
        if child is not None:
            await child.wait()


def main() -> None:
    """The child: answers until its input ends."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    arguments.issue({}, {})  # its imports take longer than most checks
    answers.write(b"ready\n")
    for line in sys.stdin.buffer:
        asked = msgspec.json.decode(line)
        signal.setitimer(signal.ITIMER_PROF, asked["cpu_s"])  # SIGPROF ends the process, whatever `re` is doing
        try:
            issue = arguments.issue(asked["value"], asked["schema"])
        except Exception:  # such as a pattern that is none, or a schema without end: it says nothing then
            issue = None
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(msgspec.json.encode(issue) + b"\n")


if __name__ == "__main__":
    main()
