"""Waiting for an answer that is given in one piece. Knows no dialect."""

from __future__ import annotations

import asyncio
import sys

from tokenrelay.protocol.errors import TABLE, TokenrelayError
from tokenrelay.protocol.reading.session import Session
from tokenrelay.protocol.wire import event_json
from tokenrelay.protocol.wire.snapshot import Snapshot
from tokenrelay.server.access.auth import Identity
from tokenrelay.server.generations import Description, find
from tokenrelay.server.http import Call, Disconnected
from tokenrelay.server.live.channel import Channel


class EndWaiter:
    """A reader that only wants to know that it is over. Its cursor holds no window back."""

    can_return = False

    def __init__(self, stream_id: str, channel: Channel) -> None:
        self.session = Session(stream_id, sys.maxsize, is_compact=True, now=0.0)
        self._channel = channel
        self.over = asyncio.Event()
        self.must_leave = False  # the edge goes before the answer came

    def is_stuck(self, _: float) -> bool:
        """Never: its cursor is beyond everything."""
        return False

    def close_soon(self) -> None:
        self.must_leave = True
        self.over.set()

    def tick(self, now: float) -> None:
        """It writes nothing that could be due."""

    def look(self) -> None:
        """Nor anything that could be unacknowledged: the kernel probes such a connection."""

    def wake(self) -> None:
        # Behind an anchor the end may be in the log already; `_described` looks.
        if self._channel.feed.has_ended or self._channel.is_lost:
            self.over.set()


async def until_ended(call: Call, identity: Identity, stream_id: str, channel: Channel | None) -> Description:
    """The stream once it has ended. `channel` is None for one that was begun before; else it is joined and left.

    Raises TokenrelayError SERVICE_UNAVAILABLE when this edge has to go first, STREAM_EXPIRED; Disconnected.
    """
    if channel is None:
        found = await find(call.edge, identity, stream_id)
        if found.has_ended:
            return found
        channel = await call.edge.hub.open(stream_id)
    await _wait(call, channel)
    ended = await call.edge.reads.describe(stream_id)
    if ended is None:
        raise TokenrelayError("STREAM_EXPIRED", stream_id=stream_id)
    return ended


async def _wait(call: Call, channel: Channel) -> None:
    edge, stream_id = call.edge, channel.feed.stream_id
    waiter = EndWaiter(stream_id, channel)
    edge.hub.join(channel, waiter)
    edge.enter(waiter)
    watcher = asyncio.create_task(_watch(call))
    over = asyncio.create_task(waiter.over.wait())
    try:
        if not await _has_ended(call, stream_id):
            waiter.wake()
            await asyncio.wait({watcher, over}, return_when=asyncio.FIRST_COMPLETED)
        if watcher.done():
            raise Disconnected
        if waiter.must_leave and not await _has_ended(call, stream_id):
            raise TokenrelayError(
                "SERVICE_UNAVAILABLE", "this edge is being replaced; the answer goes on: read its stream, or ask again "
                "with the same Idempotency-Key", retry_after=1, stream_id=stream_id,
            )  # fmt: skip
    finally:
        watcher.cancel()
        over.cancel()
        edge.connections.discard(waiter)
        edge.hub.leave(channel, waiter)


async def _has_ended(call: Call, stream_id: str) -> bool:
    """It may have ended between its description and our subscription."""
    stream = await call.edge.reads.describe(stream_id)
    return stream is None or stream.has_ended


async def _watch(call: Call) -> None:
    while (await call.receive())["type"] != "http.disconnect":
        pass


def failed(snapshot: Snapshot, stream_id: str) -> TokenrelayError:
    """Why there is no whole answer, with what there is of it."""
    failure = snapshot.failure
    if failure is None:
        return TokenrelayError("STREAM_EXPIRED", stream_id=stream_id)
    return TokenrelayError(
        failure.code if failure.code in TABLE else "INTERNAL_ERROR", failure.message, field=failure.field,
        stream_id=stream_id, retryable=failure.retryable, retry_after=failure.retry_after_s,
        partial_response=snapshot.text or None, **event_json.used(failure),
    )  # fmt: skip
