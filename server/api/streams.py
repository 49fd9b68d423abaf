"""`/api/streams`: come back to a stream, look at it, stop it, list one's own. Starts nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.reading.session import Session
from tokenrelay.protocol.store import keys
from tokenrelay.protocol.wire import cursor, event_json, websocket
from tokenrelay.protocol.wire.cursor import Answer
from tokenrelay.protocol.wire.snapshot import Snapshot
from tokenrelay.server.access.auth import Identity
from tokenrelay.server.http import Call
from tokenrelay.server.store.log import Description
from tokenrelay.server.transports.sse import SseResponse

if TYPE_CHECKING:
    from tokenrelay.server.edge import Edge


async def find(edge: Edge, identity: Identity, stream_id: str) -> Description:
    """A stream of the caller's. A foreign one and one that does not exist are refused in the same words.

    Raises TokenrelayError NOT_FOUND, FORBIDDEN (a ticket for another stream), STREAM_EXPIRED.
    """
    if not identity.may_read(stream_id):
        raise TokenrelayError("FORBIDDEN", "this ticket is for another stream")
    stream = await edge.reads.describe(stream_id) if keys.is_stream_id(stream_id) else None
    if stream is None or stream.owner != identity.owner:
        raise TokenrelayError("NOT_FOUND")
    if stream.is_expired:
        raise TokenrelayError("STREAM_EXPIRED")
    return stream


async def stream(call: Call) -> None:
    """`GET /api/streams/{id}`: the events after a cursor, or a snapshot."""
    auth = call.edge.auth
    identity = await auth.identify_with_ticket(call.headers.get("authorization"), call.query.get("ticket"))
    call.identity = identity
    stream_id = call.path["stream_id"]
    if call.accepts_json:
        found = await find(call.edge, identity, stream_id)
        await call.json(200, (await read_all(call.edge, found)).state(stream_id, found.public_state, found.model))
        return
    is_compact = websocket.parse_replay(call.query.get("replay")) == "compact"
    # The header is the newer one: an EventSource sends it when it reconnects to the same URL.
    after = call.headers.get("last-event-id")
    cursor_id = cursor.parse(call.query.get("after") if after is None else after)
    with call.edge.connection(identity):
        await attach(call, identity, stream_id, cursor_id, is_compact)


async def attach(
    call: Call, identity: Identity, stream_id: str, after: int, is_compact: bool, first: bytes = b""
) -> None:
    """Stream what follows `after`; 204 for one who has it all. `first` goes before everything else."""
    edge = call.edge
    with edge.metrics.resuming("sse", after) as outcome:
        found = await find(edge, identity, stream_id)
        answer = outcome(cursor.answer(after, found.last_id, found.has_ended))
    if answer is Answer.NOTHING_MORE:
        await call.answer(204, b"", "", {"x-stream-id": stream_id})
        return
    edge.metrics.attached.labels("sse", "resume" if after else "join").inc()
    session = Session(stream_id, after, is_compact=is_compact, now=time.monotonic())
    if answer is Answer.REPLAY or call.method == "HEAD":
        await SseResponse(edge, call, session, None).run(first)
        return
    edge.raise_if_draining()
    channel = await edge.hub.open(stream_id)
    door = SseResponse(edge, call, session, channel)
    edge.hub.join(channel, door)
    try:
        await door.run(first)
    finally:
        edge.hub.leave(channel, door)


async def read_all(edge: Edge, found: Description) -> Snapshot:
    """The log up to where the description saw it."""
    snapshot = Snapshot()
    while snapshot.last_id < found.last_id:
        first, entries = await edge.reads.page(found.stream_id, snapshot.last_id)
        if not entries:
            raise TokenrelayError("STREAM_EXPIRED")
        snapshot.take(first, entries[: found.last_id - snapshot.last_id])
    return snapshot


async def cancel(call: Call) -> None:
    """`POST /api/streams/{id}/cancel` and `DELETE /api/streams/{id}`."""
    identity = call.edge.auth.identify(call.headers.get("authorization"))
    found = await find(call.edge, identity, call.path["stream_id"])
    call.edge.metrics.cancels.labels("http").inc()
    state = found.public_state if found.has_ended else await call.edge.jobs.cancel(found)
    await call.json(200, {"stream_id": found.stream_id, "state": state})


async def streams(call: Call) -> None:
    """`GET /api/streams`: the caller's own, newest first."""
    identity = call.edge.auth.identify(call.headers.get("authorization"))
    rows = [
        {
            "stream_id": item.stream_id,
            "state": item.public_state,
            "model": item.model,
            "created_at": event_json.timestamp(item.created_ms),
            "last_event_id": item.last_id,
        }
        for item in await call.edge.reads.of_owner(identity.owner)
    ]
    await call.json(200, {"streams": rows})
