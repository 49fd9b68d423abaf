"""Logs as one JSON line an event on stderr. An event has a name and fields, never a prompt or a token."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(level: str) -> None:
    """For this process; the standard library's loggers (uvicorn, redis) say only what needs a person."""
    number = logging.getLevelNamesMapping()[level]
    logging.basicConfig(
        stream=sys.stderr, level=max(number, logging.WARNING), format="%(levelname)s %(name)s %(message)s"
    )
    # A line for everybody who sends no HTTP would let strangers fill the disk.
    logging.getLogger("uvicorn.error").setLevel(max(number, logging.ERROR))
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
