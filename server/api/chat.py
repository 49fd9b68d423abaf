"""`POST /api/chat`: ask for a generation, then stream it or wait for it. Knows no queue and no socket."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

import msgspec
import structlog

from tokenrelay.protocol.errors import TABLE, TokenrelayError
from tokenrelay.protocol.models.catalogue import NEUROSWITCH
from tokenrelay.protocol.reading.session import Session
from tokenrelay.protocol.wire import cursor, event_json, request, sse, websocket
from tokenrelay.protocol.wire.request import ChatRequest
from tokenrelay.server.access.auth import Identity
from tokenrelay.server.api.streams import attach, find, read_all
from tokenrelay.server.http import Call, Disconnected
from tokenrelay.server.live.hub import Channel
from tokenrelay.server.timing import RequestTimer
from tokenrelay.server.transports.sse import SseResponse

if TYPE_CHECKING:
    from tokenrelay.server.edge import Edge


log = structlog.get_logger()


async def chat(call: Call) -> None:
    """Start a generation, or attach to the one that the same Idempotency-Key started."""
    edge = call.edge
    raw = await _body(call)
    identity = call.identity = edge.auth.identify(call.headers.get("authorization"))
    body = request.parse_json(raw)
    key = websocket.idempotency_key(call.headers.get("idempotency-key"))
    with edge.connection(identity):
        start = call.begin()
        try:
            await _start(call, identity, body, key, start)
        except TokenrelayError as error:
            start.over(error.code)
            raise
        finally:
            start.over()


async def _start(call: Call, identity: Identity, body: ChatRequest, key: str | None, start: RequestTimer) -> None:
    edge = call.edge
    stream_id, channel = await begin(edge, identity, body, key, start)
    edge.metrics.started.labels("sse" if body.stream else "json").inc()
    if channel is None:  # a repeated POST: the generation is there already
        if body.stream:
            after = cursor.parse(call.headers.get("last-event-id"))
            await attach(call, identity, stream_id, after, is_compact=True, first=_accepted(call, stream_id, body))
        else:
            await _wait_for(call, identity, stream_id)
        return
    if not body.stream:
        await _answer(call, channel)
        return
    door = SseResponse(edge, call, Session(stream_id, 0, is_compact=True, now=time.monotonic()), channel, start)
    edge.hub.join(channel, door)
    try:
        await door.run(_accepted(call, stream_id, body))
    finally:
        edge.hub.leave(channel, door)


def _accepted(call: Call, stream_id: str, body: ChatRequest) -> bytes:
    """The edge's own first event, as a frame."""
    data = event_json.accepted_data(stream_id, body.model or NEUROSWITCH, call.at_ms)
    return sse.encode_frame(event_json.to_json(data))


async def begin(
    edge: Edge, identity: Identity, body: ChatRequest, key: str | None, start: RequestTimer
) -> tuple[str, Channel | None]:
    """Queue a generation, its channel open before it exists, so that no event of it can be missed.

    The channel is None when an Idempotency-Key led to a generation that was there already.
    Raises TokenrelayError for everything that speaks against it; then nothing has been started.
    """
    identity.raise_if_limited()
    edge.raise_if_draining()
    model = edge.models.check(body)
    channel: Channel = await edge.hub.create()
    stream_id = channel.feed.stream_id
    try:
        may = edge.auth.limits(identity)
        reply = await edge.jobs.start(stream_id, identity.owner, model, body, key, may, start.context)
    except BaseException:
        edge.hub.leave(channel)
        raise
    if reply.outcome == "started":
        start.enqueued(edge.metrics)
        log.info("stream_started", stream_id=stream_id, request_id=start.context.request_id)
        return stream_id, channel
    edge.hub.leave(channel)
    return reply.stream_id, None


async def _body(call: Call) -> bytes:
    """The body; and whether errors are to be events, which is asked for in it."""
    raw = await call.body()
    try:
        asked = msgspec.json.decode(raw, type=_Asked).stream
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        asked = "text/event-stream" in call.headers.get("accept", "")
    call.wants_sse_error = asked is True
    return raw


class _Asked(msgspec.Struct):
    stream: object = False


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
        edge.doors.discard(waiter)
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
