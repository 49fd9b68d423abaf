"""`POST /api/tickets`: a minute's pass for what cannot send headers."""

from __future__ import annotations

import time

import msgspec

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.wire import event_json
from tokenrelay.server.access.tickets import TICKET_S
from tokenrelay.server.generations import find
from tokenrelay.server.http import Call


class TicketRequest(msgspec.Struct, frozen=True):
    """What the ticket is for: one stream, or (None) all the caller's streams and the socket."""

    stream_id: str | None = None


async def ticket(call: Call) -> None:
    identity = call.edge.auth.identify(call.headers.get("authorization"))
    raw = await call.body(identity)
    try:
        asked = msgspec.json.decode(raw or b"{}", type=TicketRequest)
    except msgspec.ValidationError as error:
        raise TokenrelayError(
            "VALIDATION_ERROR", "stream_id: expected a string", field="stream_id", issue=str(error)
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TokenrelayError("INVALID_REQUEST", "the body is not JSON") from error
    if asked.stream_id is not None:
        await find(call.edge, identity, asked.stream_id)
    value = await call.edge.auth.ticket(identity, asked.stream_id)
    expires_at = event_json.timestamp(int((time.time() + TICKET_S) * 1000))
    await call.json(200, {"ticket": value, "expires_in": TICKET_S, "expires_at": expires_at})
