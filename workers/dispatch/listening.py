"""Words that make things quick: something waits, something is to be stopped. The facts are in Redis either way."""

from __future__ import annotations

import asyncio
from typing import Final

from tokenrelay.protocol.runtime.feeds import Feeds
from tokenrelay.protocol.store import keys, partitions
from tokenrelay.workers.dispatch.arq_worker import LeaseWorker
from tokenrelay.workers.dispatch.homes import homes
from tokenrelay.workers.dispatch.leases import Leases

FOLLOW_S: Final = 0.5
"""How often the channels are made to follow the workers and generations there are."""


async def listen(leases: Leases, worker: LeaseWorker) -> None:
    """Owned by the process; ends only by being cancelled."""
    store = leases.resources.store

    def heard(channel: bytes, data: bytes) -> None:
        if channel.endswith(b":cancel"):
            leases.cancel(data.decode("ascii", "replace"))
        else:
            worker.called(partitions.tag_in(channel.decode("ascii", "replace")), data)

    def connected(_server: str, channels: list[bytes] | None) -> None:
        if channels is None:
            leases.resources.metrics.wake_connects.inc()
        worker.wake()  # what was said meanwhile was not heard

    feeds = Feeds(store, heard, connected)
    wanted: set[bytes] = set()
    async with asyncio.TaskGroup() as group:
        group.create_task(feeds.run())
        while True:
            ours = homes(leases.worker_id, leases.workers, store.tags)
            ours_now = {*ours, *(partitions.tag_of(stream_id) for stream_id in leases.generations)}
            now = {keys.within(tag, keys.WAKE).encode() for tag in ours}
            now |= {keys.within(tag, keys.CANCEL).encode() for tag in ours_now}
            for channel in now - wanted:
                feeds.want(channel)
            for channel in wanted - now:
                feeds.unsubscribe(channel)
            wanted = now
            await asyncio.sleep(FOLLOW_S)
