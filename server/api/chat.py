"""`POST /api/chat`: ask for a generation, then stream it or wait for it. Knows no queue and no socket."""

from __future__ import annotations

import asyncio
import sys
import time

import msgspec

from tokenrelay.protocol.errors import TABLE, TokenrelayError
from tokenrelay.protocol.models.catalogue import NEUROSWITCH
from tokenrelay.protocol.reading.session import Session
from tokenrelay.protocol.wire import cursor, event_json, request, sse, websocket
from tokenrelay.protocol.wire.request import ChatRequest
from tokenrelay.server.access.auth import Identity
from tokenrelay.server.api.streams import attach
from tokenrelay.server.generations import begin, find, read_all
from tokenrelay.server.http import Call, Disconnected
from tokenrelay.server.live.hub import Channel
from tokenrelay.server.timing import RequestTimer
from tokenrelay.server.transports.sse import SseResponse


class _Begun(msgspec.Struct, frozen=True):
    """What is left of a request once its generation is queued: neither its bytes nor its conversation stay while the
    answer runs. The channel is None for a repeated POST, whose generation is there already."""

    stream_id: str
    channel: Channel | None
    is_streamed: bool
    model: str


async def chat(call: Call) -> None:
    """Start a generation, or attach to the one that the same Idempotency-Key started."""
    edge = call.edge
    identity = call.identity = edge.auth.identify(call.headers.get("authorization"))
    with edge.connection(identity):
        timer = call.begin()
        try:
            begun = await _begin(call, identity, timer)
            await _deliver(call, identity, begun, timer)
        except TokenrelayError as error:
            timer.over(error.code)
            raise
        finally:
            timer.over()


async def _begin(call: Call, identity: Identity, timer: RequestTimer) -> _Begun:
    body = await _body(call, identity)
    key = websocket.idempotency_key(call.headers.get("idempotency-key"))
    stream_id, channel = await begin(call.edge, identity, body, key, timer)
    call.edge.metrics.started.labels("sse" if body.stream else "json").inc()
    return _Begun(stream_id, channel, body.stream, body.model or NEUROSWITCH)


async def _deliver(call: Call, identity: Identity, begun: _Begun, timer: RequestTimer) -> None:
    edge, stream_id, channel = call.edge, begun.stream_id, begun.channel
    if channel is None and begun.is_streamed:
        after = cursor.parse(call.headers.get("last-event-id"))
        await attach(call, identity, stream_id, after, is_compact=True, first=_accepted(call, begun))
    elif channel is None:
        await _wait_for(call, identity, stream_id)
    elif begun.is_streamed:
        session = Session(stream_id, 0, is_compact=True, now=time.monotonic())
        await SseResponse(edge, call, session, channel, timer).run(_accepted(call, begun))
    else:
        await _answer(call, channel)


def _accepted(call: Call, begun: _Begun) -> bytes:
    """The edge's own first event, as a frame."""
    data = event_json.accepted_data(begun.stream_id, begun.model, call.at_ms)
    return sse.encode_frame(event_json.to_json(data))


async def _body(call: Call, identity: Identity) -> ChatRequest:
    """The request; and whether errors are to be events, which is asked for in it."""
    raw = await call.body(identity)
    try:
        body = request.parse_json(raw)
    except TokenrelayError:
        call.wants_sse_error = _asks_for_events(raw, call)
        raise
    call.wants_sse_error = body.stream
    return body


def _asks_for_events(raw: bytes, call: Call) -> bool:
    """Of a body with a fault: what it says of `stream`, or where that cannot be read either, what the head says."""
    try:
        return msgspec.json.decode(raw, type=_Asked).stream
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "text/event-stream" in call.headers.get("accept", "")


class _Asked(msgspec.Struct):
    stream: bool = False


# -- without `stream`: one JSON at the end
# -------------------------------------------------------------------------------


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
        # Behind an anchor the end may be in the log already; `_snapshot` looks.
        if self._channel.feed.has_ended or self._channel.is_lost:
            self.over.set()


async def _wait_for(call: Call, identity: Identity, stream_id: str) -> None:
    """The JSON of a generation that was there already."""
    stream = await find(call.edge, identity, stream_id)
    if stream.has_ended:
        await _give(call, stream_id)
        return
    await _answer(call, await call.edge.hub.open(stream_id))


async def _answer(call: Call, channel: Channel) -> None:
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
    await _give(call, stream_id)


async def _has_ended(call: Call, stream_id: str) -> bool:
    """It may have ended between its description and our subscription."""
    stream = await call.edge.reads.describe(stream_id)
    return stream is None or stream.has_ended


async def _give(call: Call, stream_id: str) -> None:
    found = await call.edge.reads.describe(stream_id)
    if found is None:
        raise TokenrelayError("STREAM_EXPIRED", stream_id=stream_id)
    snapshot = await read_all(call.edge, found)
    headers = {"x-stream-id": stream_id, "location": f"/api/streams/{stream_id}"}
    if snapshot.failure is not None:
        failure = snapshot.failure
        code = failure.code if failure.code in TABLE else "INTERNAL_ERROR"
        raise TokenrelayError(
            code, failure.message, stream_id=stream_id, retryable=failure.retryable, retry_after=failure.retry_after_s,
            partial_response=snapshot.text or None,
        )  # fmt: skip
    if snapshot.completion is None:
        raise TokenrelayError("STREAM_EXPIRED", stream_id=stream_id)
    await call.json(200, snapshot.answer(stream_id), headers)


async def _watch(call: Call) -> None:
    while (await call.receive())["type"] != "http.disconnect":
        pass
