"""`/api/streams`: come back to a stream, look at it, stop it, list one's own. Starts nothing."""

from __future__ import annotations

from tokenrelay.protocol.wire import cursor, event_json, websocket
from tokenrelay.server.access.auth import Identity
from tokenrelay.server.generations import find, resume
from tokenrelay.server.http import Call
from tokenrelay.server.transports import document
from tokenrelay.server.transports.sse import SseResponse


async def stream(call: Call) -> None:
    """`GET /api/streams/{id}`: the events after a cursor, or a snapshot."""
    auth = call.edge.auth
    identity = await auth.identify_with_ticket(call.headers.get("authorization"), call.query.get("ticket"))
    call.identity = identity
    stream_id = call.path["stream_id"]
    if call.accepts_json:
        found = await find(call.edge, identity, stream_id)
        await document.send(
            call, found, "text", lambda snapshot: snapshot.state(stream_id, found.public_state, found.model)
        )
        return
    is_compact = websocket.parse_replay(call.query.get("replay")) == "compact"
    # The header is the newer one: an EventSource sends it when it reconnects to the same URL. An empty one says nothing
    # (the HTML standard sends none in its place).
    after = cursor.parse(call.headers.get("last-event-id", "").strip() or call.query.get("after"))
    with call.edge.connection(identity):
        await attach(call, identity, stream_id, after, is_compact)


async def attach(
    call: Call, identity: Identity, stream_id: str, after: int, is_compact: bool, first: bytes = b""
) -> None:
    """Stream what follows `after`; 204 for one who has it all. `first` goes before everything else."""
    reading = await resume(
        call.edge, identity, stream_id, after, is_compact=is_compact, transport="sse", is_followed=call.method != "HEAD"
    )
    if reading is None:
        await call.answer(204, b"", "", {"x-stream-id": stream_id})
    else:
        await SseResponse(call.edge, call, reading.session, reading.channel).run(first)


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
            **({"metadata": item.metadata} if item.metadata else {}),
        }
        for item in await call.edge.reads.of_owner(identity.owner)
    ]
    await call.json(200, {"streams": rows})
