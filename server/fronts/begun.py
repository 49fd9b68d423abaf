"""What every front does: begin a generation, or attach to the one an Idempotency-Key began. Knows no dialect."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import msgspec

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.fronts import asked
from tokenrelay.protocol.fronts.asked import Asked, Remembered
from tokenrelay.protocol.fronts.ui import UiAsked
from tokenrelay.protocol.wire import websocket
from tokenrelay.protocol.wire.parts import Bounds
from tokenrelay.server.access import bodies
from tokenrelay.server.access.auth import Identity
from tokenrelay.server.generations import Description, begin, find
from tokenrelay.server.http import Call
from tokenrelay.server.live.channel import Channel
from tokenrelay.server.timing import RequestTimer
from tokenrelay.server.transports import document
from tokenrelay.server.transports.wait_for_end import failed


class Begun(msgspec.Struct, frozen=True):
    """A generation of a front. The channel is None for one that was there already."""

    stream_id: str
    channel: Channel | None
    remembered: Remembered
    model: str
    timer: RequestTimer


Parsed = TypeVar("Parsed", Asked, UiAsked)


async def parsed(call: Call, raw: bytes, parse: Callable[[Bounds], Parsed]) -> Parsed:
    """A body as a request: a large one beside the event loop, and large only by its parts. Raises TokenrelayError."""
    settings = call.edge.settings

    def parse_and_check() -> Parsed:
        made = parse(settings.part_bounds)
        bodies.check_rest(raw, made.request, settings)
        return made

    return await bodies.beside(raw, parse_and_check)


@contextlib.contextmanager
def timed(call: Call) -> Iterator[RequestTimer]:
    """Times a request and notes the error it ends with."""
    timer = call.begin()
    try:
        yield timer
    except TokenrelayError as error:
        timer.over(error.code)
        raise
    finally:
        timer.over()


def idempotency_key(call: Call) -> str | None:
    return websocket.idempotency_key(call.headers.get("idempotency-key"))


def on_disconnect(call: Call) -> str:
    """What holds where the body does not say: a client that named its request may come back to it, no other can."""
    if idempotency_key(call) is not None:
        return "continue"
    return f"grace:{call.edge.settings.front_grace_s}"


async def start(call: Call, identity: Identity, made: Asked, timer: RequestTimer, chat_id: str | None = None) -> Begun:
    """Queue what was asked. Raises TokenrelayError in the caller's words; `unknown` where no model has the name."""
    edge, request = call.edge, made.request
    try:
        stream_id, channel = await begin(
            edge, identity, request, idempotency_key(call), timer, made.remembered.dialect,
            front=asked.pack(made.remembered), chat_id=chat_id,
        )  # fmt: skip
    except TokenrelayError as error:
        if error.code == "VALIDATION_ERROR" and error.fields.get("field") == "model":
            error.fields["unknown"] = True
        raise made.names.renamed(error) from error.__cause__
    edge.metrics.started.labels(made.remembered.dialect).inc()
    remembered = made.remembered
    if channel is None:
        known = asked.unpack((await find(edge, identity, stream_id)).front)
        remembered = known or remembered
    return Begun(stream_id, channel, remembered, request.model or "", timer)


async def check_complete(call: Call, found: Description) -> None:
    """Raises TokenrelayError for an answer that failed or was cancelled."""
    end = (await document.last_of(call, found)).completion
    if end is None:
        raise failed(await document.read_all(call, found), found.stream_id)
    if end.finish_reason == "cancelled":
        raise TokenrelayError("INVALID_REQUEST", "the answer was cancelled", api_code="cancelled", api_status=409)


def remembered_of(found: Description, dialect: str) -> Remembered:
    """What was kept for this front, or what stands in for it: any front may read any stream of its owner."""
    known = asked.unpack(found.front)
    if known is not None and known.dialect == dialect:
        return known
    return Remembered(dialect, found.created_ms // 1000)
