"""A file that is read again when it changes. Whatever was good stays good while the file is not."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

import structlog

LOOK_AGAIN_S: Final = 1.0

T = TypeVar("T")

log = structlog.get_logger()


class Watched(Generic[T]):
    """What `parse` makes of a file's text. `refusals` are what `parse` and reading may raise: at first they are the
    caller's, later they are logged, because a slip of an editor must not lock everybody out."""

    def __init__(self, file: Path, parse: Callable[[str], T], refusals: tuple[type[Exception], ...]) -> None:
        self._file = file
        self._parse = parse
        self._refusals = refusals
        self._looked_at = time.monotonic()
        self._mark = _mark(file)
        self._value = parse(file.read_text(encoding="utf-8"))

    def __repr__(self) -> str:
        return f"<Watched {self._file.name}>"

    def value(self) -> T:
        now = time.monotonic()
        if now - self._looked_at >= LOOK_AGAIN_S:
            self._looked_at = now
            try:
                self._read_if_changed()
            except self._refusals as error:
                log.error("file_unreadable", file=self._file.name, error=str(error))
        return self._value

    def _read_if_changed(self) -> None:
        mark = _mark(self._file)  # before the text: a change in between is seen the next time
        if mark != self._mark:
            self._value = self._parse(self._file.read_text(encoding="utf-8"))
            self._mark = mark
            log.info("file_read_again", file=self._file.name)


def _mark(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_mtime_ns, found.st_size
