"""`POST /api/chat`: ask for a generation, then stream it or wait for it. Knows no queue and no socket."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

import msgspec

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.models.catalogue import NEUROSWITCH
from tokenrelay.protocol.reading.session import Session
from tokenrelay.protocol.wire import cursor, event_json, large_json, sse, websocket
from tokenrelay.protocol.wire.request import ChatRequest
from tokenrelay.server.access import bodies
from tokenrelay.server.access.auth import Identity
from tokenrelay.server.api.streams import attach
from tokenrelay.server.generations import begin
from tokenrelay.server.http import Call
from tokenrelay.server.live.channel import Channel
from tokenrelay.server.net.refusal import Answer
from tokenrelay.server.timing import RequestTimer
from tokenrelay.server.transports import document
from tokenrelay.server.transports.sse import SseResponse
from tokenrelay.server.transports.wait_for_end import failed, until_ended


class _Begun(msgspec.Struct, frozen=True):
    """What is left of a request once its generation is queued: neither its bytes nor its conversation stay while the
    answer runs. The channel is None for a repeated POST, whose generation is there already."""

    stream_id: str
    channel: Channel | None
    is_streamed: bool
    model: str


Deliver: TypeAlias = Callable[[], Awaitable[None]]


class Other(Protocol):
    """Another dialect that has this path too, told apart by the body."""

    def is_asked(self, raw: bytes) -> bool: ...

    def errors(self, error: TokenrelayError, request_id: str) -> Answer:
        """How it says them."""
        ...

    async def begin(self, call: Call, identity: Identity, raw: bytes, timer: RequestTimer) -> Deliver:
        """Start what was asked; what it returns streams the answer."""
        ...


async def chat(call: Call, other: Other | None = None) -> None:
    """Start a generation, or attach to the one that the same Idempotency-Key started."""
    identity = call.identity = call.edge.auth.identify(call.headers.get("authorization"))
    with contextlib.ExitStack() as opened:
        timer = call.begin()
        try:
            deliver = await _begin(call, identity, timer, other, opened)
            await deliver()
        except TokenrelayError as error:
            timer.over(error.code)
            raise
        finally:
            timer.over()


async def _begin(
    call: Call, identity: Identity, timer: RequestTimer, other: Other | None, opened: contextlib.ExitStack
) -> Deliver:
    """`opened` gets the caller's one more connection. A refusal of it comes after the body, which says its form."""
    with call.edge.limits.large_bodies.place(identity.owner) as place:
        raw = await call.body(identity, place)
        if other is not None and await bodies.beside(raw, functools.partial(other.is_asked, raw)):
            call.error_form = other.errors
            opened.enter_context(call.edge.connection(identity))
            return await other.begin(call, identity, raw, timer)
        body = await _body(call, raw)
        opened.enter_context(call.edge.connection(identity))
        key = websocket.idempotency_key(call.headers.get("idempotency-key"))
        transport = "sse" if body.stream else "json"
        stream_id, channel = await begin(call.edge, identity, body, key, timer, transport)
    call.edge.metrics.started.labels(transport).inc()
    begun = _Begun(stream_id, channel, body.stream, body.model or NEUROSWITCH)
    return functools.partial(_deliver, call, identity, begun, timer)


async def _deliver(call: Call, identity: Identity, begun: _Begun, timer: RequestTimer) -> None:
    edge, stream_id, channel = call.edge, begun.stream_id, begun.channel
    if channel is None and begun.is_streamed:
        after = cursor.parse(call.headers.get("last-event-id"))
        await attach(call, identity, stream_id, after, is_compact=True, first=_accepted(call, begun))
    elif channel is not None and begun.is_streamed:
        session = Session(stream_id, 0, is_compact=True, now=time.monotonic())
        await SseResponse(edge, call, session, channel, timer).run(_accepted(call, begun))
    else:
        await _answer(call, identity, stream_id, channel)


def _accepted(call: Call, begun: _Begun) -> bytes:
    """The edge's own first event, as a frame."""
    data = event_json.accepted_data(begun.stream_id, begun.model, call.at_ms)
    return sse.encode_frame(event_json.to_json(data))


async def _body(call: Call, raw: bytes) -> ChatRequest:
    """The request; and whether errors are to be events, which is asked for in it."""
    try:
        body = await bodies.parsed(raw, call.edge.settings)
    except TokenrelayError as error:
        if error.code != "PAYLOAD_TOO_LARGE":  # of one that is too large only the head counts, read or not
            call.wants_sse_error = await bodies.beside(raw, lambda: _asks_for_events(raw, call))
        raise
    call.wants_sse_error = body.stream
    return body


def _asks_for_events(raw: bytes, call: Call) -> bool:
    """Of a body with a fault: what it says of `stream`, or where that cannot be read either, what the head says."""
    try:
        return large_json.decode(raw, _Asked).stream
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "text/event-stream" in call.headers.get("accept", "")


class _Asked(msgspec.Struct):
    stream: bool = False


async def _answer(call: Call, identity: Identity, stream_id: str, channel: Channel | None) -> None:
    """One JSON at the end."""
    found = await until_ended(call, identity, stream_id, channel)
    headers = {"x-stream-id": stream_id, "location": f"/api/streams/{stream_id}"}
    if (await document.last_of(call, found)).completion is None:
        raise failed(await document.read_all(call, found), stream_id)
    await document.send(call, found, "response", lambda snapshot: snapshot.answer(stream_id), headers)
