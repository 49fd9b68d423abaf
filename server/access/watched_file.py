"""A file that is read again when it changes. What was good stays good while the file is not, as far as that is safe."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

import structlog

from tokenrelay.protocol.runtime.redis import describe

LOOK_AGAIN_S: Final = 1.0
MAX_BYTES: Final = 16 * 1024 * 1024
SAY_AGAIN_S: Final = 60.0

T = TypeVar("T")

log = structlog.get_logger()


class Watched(Generic[T]):
    """What `parse` makes of a file's bytes. At first whatever that raises is the caller's; later it is logged, because
    a slip of an editor must not lock everybody out, and told by `trouble`. `keep` makes of the last good value and of
    bytes that cannot be parsed what still holds.

    The bytes themselves are compared: a time and a size can be the same after a change.
    """

    def __init__(
        self, file: Path, parse: Callable[[bytes], T], keep: Callable[[T, bytes], T] = lambda before, _: before
    ) -> None:
        self._file = file
        self._parse = parse
        self._keep = keep
        self._looked_at = time.monotonic()
        self._raw = self._read()
        self._value = parse(self._raw)
        self._said_at = float("-inf")  # when the trouble was last logged
        self.trouble = ""

    def __repr__(self) -> str:
        return f"<Watched {self._file.name}>"

    def value(self) -> T:
        now = time.monotonic()
        if now - self._looked_at >= LOOK_AGAIN_S:
            self._looked_at = now
            self._look(now)
        return self._value

    def _look(self, now: float) -> None:
        raw = self._raw
        try:
            raw = self._read()
            if raw != self._raw or self.trouble:
                self._value = self._parse(raw)
                log.info("file_read_again", file=self._file.name)
            self.trouble = ""
        except Exception as error:
            # Our own words (BadKeys, BadKeySet) say where; those of others may repeat what stands there.
            words = str(error) if type(error).__module__.startswith("tokenrelay") else describe(error)
            if raw != self._raw:
                self._value = self._keep(self._value, raw)
            if raw != self._raw or words != self.trouble or now - self._said_at >= SAY_AGAIN_S:
                log.error("file_unreadable", file=self._file.name, error=words)
                self._said_at = now
            self.trouble = words
        self._raw = raw

    def _read(self) -> bytes:
        with self._file.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise OSError(0, f"more than {MAX_BYTES} bytes")
        return raw
