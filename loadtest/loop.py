"""The event loop of measuring clients: uvloop where available, so that the client's own share of a time is small."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """As `asyncio.run`."""
    factory = None
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        pass  # Windows: slower, and as right
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)
