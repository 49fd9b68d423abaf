"""Closes the gap in a window: reads the log until the window has all that was heard of. Knows no reader."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.store.entries import CorruptEntry, Entry
from tokenrelay.server.live.channel import Channel
from tokenrelay.server.store.log import LogReader

PAUSE_S: Final = 0.5
MOST_EMPTY_PAGES: Final = 20
"""Ten seconds: longer than a worker takes to come back to a new primary."""

log = structlog.get_logger()


async def refill(
    channel: Channel, reads: LogReader, take: Callable[[int, list[Entry]], None], is_open: Callable[[], bool]
) -> None:
    """Until there is no gap, nobody reads here any more, or what is missing is nowhere: then the channel is lost.

    A publication that was only late may close the gap meanwhile; then what was read is known already. After a failover
    the log may be short of what we heard until its worker has sent it again: an empty answer gets time.
    """
    feed, empty = channel.feed, 0
    while feed.has_gap and is_open():
        try:
            first, entries = await reads.page(feed.stream_id, feed.last)
        except TokenrelayError:
            await asyncio.sleep(PAUSE_S)  # Redis is away; readers get heartbeats meanwhile
            continue
        except CorruptEntry as error:
            log.error("log_corrupt", stream_id=feed.stream_id, error=str(error))
            channel.lose(is_unreadable=True)
            return
        if entries and first <= feed.last + 1:
            empty = 0
            take(first, entries)
        elif entries or empty >= MOST_EMPTY_PAGES:
            channel.lose()
            return
        else:
            empty += 1
            await asyncio.sleep(PAUSE_S)
