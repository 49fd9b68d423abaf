"""A stop, which is tried again until the server knows it, whatever becomes of the stream's reader."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from tokenrelay_client.api import DROPPED, OPEN_TIMEOUT_S, words_of
from tokenrelay_client.errors import TokenrelayError, Unreachable
from tokenrelay_client.retry import Backoff
from tokenrelay_client.transport import Transport


async def stop(
    stream_id: str,
    ways: Callable[[], Sequence[Transport]],
    has_ended: Callable[[], bool],
    pause: Callable[[float], Awaitable[None]],
    backoff: Backoff,
    patience_s: float,
) -> None:
    """Returns once the server knows, or the stream has ended by itself.

    Every way there is is tried, one after the other, and again after a wait that grows (`pause`, in seconds). Raises
    TokenrelayError: each of them refused, or none was there for `patience_s`, in waits added up.
    """
    waited_s, failures = 0.0, 0
    while not has_ended():
        refusals: list[TokenrelayError] = []
        why = ""
        tried = list(ways())
        for way in tried:
            try:
                async with asyncio.timeout(OPEN_TIMEOUT_S):
                    await way.cancel(stream_id)
                    return
            except TokenrelayError as error:
                why = str(error)
                if not error.retryable:
                    refusals.append(error)
            except DROPPED as error:
                why = words_of(error)
        # Who may not come this way may come another: only what the server says of the stream itself counts for all.
        final = [error for error in refusals if error.status not in (401, 403)]
        if final or len(refusals) == len(tried):
            raise (final or refusals)[0]
        delay_s = backoff.delay_s(failures)
        waited_s += delay_s
        if waited_s > patience_s:
            raise Unreachable(f"the server could not be told to stop: {why}")
        failures += 1
        await pause(delay_s)
