"""Logs as one line per event on stderr, JSON or for people. Never a secret, a prompt or a token.

An exception is told by its frames and its type. Its text is told only where it cannot hold what was being worked on:
libraries put keys, lines of input and whole commands into it. No local variable is ever told.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, TypeAlias

import structlog

from tokenrelay.protocol.runtime.redis import describe

ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]

MAX_MESSAGE: Final = 300
MAX_EXCEPTIONS: Final = 8
_ABOUT_CODE: Final = (TypeError, AttributeError, NameError, ImportError, AssertionError, IndexError, RuntimeError)
"""Their texts speak of the program."""

FOREIGN: Final = ("mcp",)
"""Loggers of libraries that repeat what strangers print: a line each, without the exception, and few a minute."""

FOREIGN_A_MINUTE: Final = 10


def exception_text(exc_info: ExcInfo) -> str:
    """A traceback, causes first as Python has them."""
    return "\n".join(_told(exc_info[1], set()))


def _told(error: BaseException, seen: set[int]) -> Iterator[str]:
    if id(error) in seen or len(seen) >= MAX_EXCEPTIONS:
        return
    seen.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None:
        yield from _told(before, seen)
        yield "\nDuring handling of this, or because of it:\n"
    yield "Traceback (most recent call last):"
    yield from (line.rstrip("\n") for line in traceback.format_tb(error.__traceback__))
    text = f"{type(error).__name__}: {str(error)[:MAX_MESSAGE]}" if isinstance(error, _ABOUT_CODE) else describe(error)
    yield text.replace("\n", " ")
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _told(each, seen)


class _Formatter(logging.Formatter):
    """One line of bounded length, and the traceback as above."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = record.message.partition("\n")[0][:MAX_MESSAGE]
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return exception_text(ei)


class Few(logging.Filter):
    """Of the records of `FOREIGN` lets few through, without what raised them."""

    def __init__(self) -> None:
        super().__init__()
        self._minute = 0
        self._passed = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] not in FOREIGN:
            return True
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._passed = minute, 0
        self._passed += 1
        record.msg, record.args = str(record.msg), ()  # the constant text: the arguments are what was printed
        record.exc_info = record.exc_text = None
        return self._passed <= FOREIGN_A_MINUTE


def _excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What ends the process is told in the same way."""
    if issubclass(kind, KeyboardInterrupt):
        return
    print(exception_text((kind, error, trace)), file=sys.stderr)


_RENDERERS: Final[dict[str, list[Any]]] = {
    "json": [structlog.processors.ExceptionRenderer(exception_text), structlog.processors.JSONRenderer()],
    "console": [
        structlog.processors.ExceptionRenderer(exception_text),
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ],
}


def configure(level: str, form: str = "json") -> None:
    """For this process; the standard library's loggers (uvicorn, redis) say only what needs a person."""
    number = logging.getLevelNamesMapping()[level]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(levelname)s %(name)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING))
    # A line for everybody who sends no HTTP would let strangers fill the disk.
    logging.getLogger("uvicorn.error").setLevel(max(number, logging.ERROR))
    handler.addFilter(Few())  # of the handler: a filter of a logger does not see what loggers below it say
    sys.excepthook = _excepthook
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *_RENDERERS[form],
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
