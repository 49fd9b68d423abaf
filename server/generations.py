"""What callers ask of generations: begin one, find one, resume one. Knows no transport."""

from __future__ import annotations

import time

import msgspec
import structlog

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.reading.session import Session
from tokenrelay.protocol.store import keys
from tokenrelay.protocol.store.scripts import Limits
from tokenrelay.protocol.wire import cursor, request
from tokenrelay.protocol.wire.cursor import Answer
from tokenrelay.protocol.wire.request import ChatRequest
from tokenrelay.server.access.auth import Identity
from tokenrelay.server.edge import Edge
from tokenrelay.server.live.channel import Channel
from tokenrelay.server.store.log import Description
from tokenrelay.server.timing import RequestTimer

__all__ = ["Description", "Reading", "begin", "find", "resume"]

log = structlog.get_logger()


class Reading(msgspec.Struct, frozen=True):
    """A session and the channel it follows; None: all it lacks is in the log. Whoever gets one with a channel either
    joins that channel or leaves it."""

    session: Session
    channel: Channel | None
    found: Description


async def begin(
    edge: Edge,
    identity: Identity,
    body: ChatRequest,
    key: str | None,
    timer: RequestTimer,
    transport: str,
    *,
    front: bytes = b"",
    chat_id: str | None = None,
) -> tuple[str, Channel | None]:
    """Queue a generation, its channel open before it exists, so that no event of it can be missed. `front` and
    `chat_id` are what a front keeps with the stream (`Jobs.start`).

    The channel is None when an Idempotency-Key led to a generation that was there already.
    Raises TokenrelayError for everything that speaks against it; then nothing has been started.
    """
    identity.raise_if_limited()
    edge.raise_if_draining()
    late = edge.late
    if late and key is None:
        raise edge.shed(late)
    model, needs = edge.models.check(body)
    may = edge.auth.limits(identity)
    body = request.bounded(body, may.max_output_tokens or 0)
    settings = edge.settings
    share = round(100 * settings.key_queue_share) if edge.auth.has_many_owners else 100
    most = 0 if late else settings.max_queue  # with a key: a stream that is there already is given, none begins
    limits = Limits(most, may.concurrency or 0, may.rate or 0, settings.max_queue_bytes, share)
    goes_with = msgspec.structs.replace(timer.context, transport=transport)
    channel = await edge.hub.create()
    stream_id = channel.feed.stream_id
    try:
        reply = await edge.jobs.start(
            stream_id, identity.owner, model, body, key, limits, goes_with, front=front, chat_id=chat_id, needs=needs
        )
    except BaseException as error:
        edge.hub.leave(channel)
        if late and isinstance(error, TokenrelayError) and error.code == "OVERLOADED":
            raise edge.shed(late) from None
        raise
    if reply.outcome == "started":
        timer.enqueued(edge.metrics)
        log.info(
            "stream_started", stream_id=stream_id, request_id=timer.context.request_id, owner=identity.owner,
            model=edge.models.label(model), transport=transport,
        )  # fmt: skip
        return stream_id, channel
    edge.hub.leave(channel)
    return reply.stream_id, None


async def find(edge: Edge, identity: Identity, stream_id: str) -> Description:
    """A stream of the caller's. A foreign one and one that does not exist are refused in the same words.

    Raises TokenrelayError NOT_FOUND, FORBIDDEN (a ticket for another stream), STREAM_EXPIRED.
    """
    if not identity.may_read(stream_id):
        raise TokenrelayError("FORBIDDEN", "this ticket is for another stream")
    stream = await edge.reads.describe(stream_id) if keys.is_stream_id(stream_id) else None
    if stream is None or stream.owner != identity.owner or stream.is_deleted:
        raise TokenrelayError("NOT_FOUND")
    if stream.is_expired:
        raise TokenrelayError("STREAM_EXPIRED")
    return stream


async def resume(
    edge: Edge,
    identity: Identity,
    stream_id: str,
    after: int,
    *,
    is_compact: bool,
    transport: str,
    is_followed: bool = True,
) -> Reading | None:
    """What follows `after`; None for one who has it all. `is_followed` False: only what is in the log by now.

    Raises TokenrelayError like `find`; CURSOR_AHEAD; SERVICE_UNAVAILABLE while the edge drains and without Redis.
    """
    with edge.metrics.resuming(transport, after) as outcome:
        found = await find(edge, identity, stream_id)
        answer = outcome(cursor.answer(after, found.last_id, found.has_ended))
    if answer is Answer.NOTHING_MORE:
        return None
    channel = None
    if answer is Answer.FOLLOW and is_followed:
        edge.raise_if_draining()
        channel = await edge.hub.open(stream_id)
    edge.metrics.attached.labels(transport, "resume" if after else "join").inc()
    return Reading(Session(stream_id, after, is_compact=is_compact, now=time.monotonic()), channel, found)
