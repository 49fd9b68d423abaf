"""What the adapters share: texts that do not run together, refusals of a provider, closing what was read."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeAlias, TypeVar

from tokenrelay.agent.parts import Ask, Fail, Part, Text

T = TypeVar("T")
Handler: TypeAlias = Callable[[Ask], AsyncIterator[str | Part]]


class Joined:
    """The texts of one answer. Where another text begins after a tool call, white space stands between them."""

    def __init__(self) -> None:
        self._last = " "  # the last character told; white space asks for nothing
        self._begins = False

    def begin(self) -> None:
        """What follows is another text."""
        self._begins = True

    def take(self, text: str) -> Iterator[Text]:
        if not text:
            return
        if self._begins and not self._last.isspace() and not text[0].isspace():
            yield Text("\n\n")
        self._begins = False
        self._last = text[-1]
        yield Text(text)


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Errors with an HTTP status, as the libraries of providers raise them, become a `Fail` that tells it: 408, 409,
    429 and 5xx may pass. All others go on as they are."""
    try:
        yield
    except Exception as error:
        status = getattr(error, "status_code", None)
        if isinstance(error, Fail) or not isinstance(status, int):
            raise
        raise Fail(
            f"the model's provider refused with status {status}", retryable=status in (408, 409, 429) or status >= 500
        ) from error


async def in_thread(work: Callable[[], T]) -> T:
    """As `asyncio.to_thread`, in a thread that holds up no process that goes."""
    result: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            outcome = work()
        except BaseException as error:
            with contextlib.suppress(concurrent.futures.InvalidStateError):  # cancelled: nobody waits any more
                result.set_exception(error)
        else:
            with contextlib.suppress(concurrent.futures.InvalidStateError):
                result.set_result(outcome)

    threading.Thread(target=contextvars.copy_context().run, args=(run,), name="chunks", daemon=True).start()
    return await asyncio.wrap_future(result)


async def close(stream: Any) -> None:
    """Whatever way it has. A generator that still runs in a thread ends with it."""
    if getattr(stream, "gi_running", False):
        return
    for name in ("aclose", "close"):
        if (end := getattr(stream, name, None)) is not None:
            result = end()
            if inspect.isawaitable(result):
                await result
            return


def text_of(content: Any) -> str:
    """The text of a message's content; other kinds of parts have none."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(part.get("text", "") for part in parts if isinstance(part, dict) and part.get("type") == "text")
