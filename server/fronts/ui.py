"""The AI SDK's `useChat`: a chat has one stream at a time, found by the chat's id. Knows no queue."""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.fronts import openai, ui
from tokenrelay.protocol.fronts.asked import Remembered
from tokenrelay.protocol.reading.feed import Format
from tokenrelay.protocol.reading.session import Session
from tokenrelay.protocol.store.entries import Entry
from tokenrelay.protocol.wire import large_json
from tokenrelay.server.access.auth import Identity
from tokenrelay.server.fronts import begun as fronts
from tokenrelay.server.generations import Description, find, resume
from tokenrelay.server.http import Call
from tokenrelay.server.net import refusal
from tokenrelay.server.timing import RequestTimer
from tokenrelay.server.transports.front import FrontResponse

REPLAY_GRACE_S: Final = 60.0
"""An answer that has ended is replayed for so long: a 204 right after a drop would leave half of it on the page."""


class Writing:
    """How a UI message stream is written: each reader folds the log from its first entry."""

    headers: Mapping[str, str] = ui.HEADERS
    form: Format | None = None

    def __init__(self, stream_id: str, remembered: Remembered) -> None:
        self._fold = ui.Fold(stream_id, remembered)

    def opening(self) -> bytes:
        return b": hb\n\n"

    def let_go(self) -> bool:
        return False  # it keeps no text

    def take(self, entry: Entry, entry_id: int) -> bytes:
        return self._fold.take(entry, entry_id)

    def heartbeat(self, _: int) -> bytes:
        return b": hb\n\n"

    def refusal(self, error: TokenrelayError) -> bytes:
        return openai.frame({"type": "error", "errorText": error.message}) + ui.DONE


def errors(error: TokenrelayError, request_id: str) -> refusal.Answer:
    """The sentence alone: the SDK shows the body of a refusal as it is."""
    return refusal.in_form(error, request_id, error.status, error.message.encode(), "text/plain; charset=utf-8")


def is_asked(raw: bytes) -> bool:
    """True when the body of a `POST /api/chat` is one of `useChat`."""
    text = large_json.Cut(raw).text
    if b'"trigger"' not in text or b'"parts"' not in text:
        return False
    try:
        return ui.is_ours(openai.decode(text))
    except TokenrelayError:
        return False


async def chat(call: Call) -> None:
    """`POST /api/ui/chat`: start the chat's next answer and stream it."""
    identity = call.identity = call.edge.auth.identify(call.headers.get("authorization"))
    with call.edge.connection(identity), fronts.timed(call) as timer:
        with call.edge.limits.large_bodies.place(identity.owner) as place:
            deliver = await begin(call, identity, await call.body(identity, place), timer)
        await deliver()


async def begin(call: Call, identity: Identity, raw: bytes, timer: RequestTimer) -> Callable[[], Awaitable[None]]:
    """Start the chat's next answer; what is returned streams it. `POST /api/chat` comes here with such a body too."""
    call.error_form = errors
    made = await fronts.parsed(call, raw, lambda bounds: ui.parse(raw, now_s=call.at_ms // 1000, bounds=bounds))
    begun = await fronts.start(call, identity, made.asked, timer, made.chat_id)
    return functools.partial(_deliver, call, identity, begun)


async def _deliver(call: Call, identity: Identity, begun: fronts.Begun) -> None:
    edge = call.edge
    if begun.channel is None:
        await _replay(call, identity, await find(edge, identity, begun.stream_id))
        return
    session = Session(begun.stream_id, 0, is_compact=True, now=time.monotonic())
    writing = Writing(begun.stream_id, begun.remembered)
    await FrontResponse(edge, call, session, begun.channel, writing, begun.timer).run()


async def stream(call: Call) -> None:
    """`GET …/{chat id}/stream`: the answer that is under way, from its start; 204 where there is none."""
    call.error_form = errors
    identity = call.identity = call.edge.auth.identify(call.headers.get("authorization"))
    found = await _of_chat(call, identity)
    if found is None or not _is_replayed(found, time.time()):
        await call.answer(204, b"", "")
        return
    with call.edge.connection(identity):
        await _replay(call, identity, found)


async def stop(call: Call) -> None:
    """`POST …/{chat id}/stop`, `DELETE …/{chat id}/stream`: stops the answer that is under way."""
    call.error_form = errors
    identity = call.identity = call.edge.auth.identify(call.headers.get("authorization"))
    found = await _of_chat(call, identity)
    call.edge.metrics.cancels.labels("http").inc()
    if found is not None and not found.has_ended:
        await call.edge.jobs.cancel(found)
    await call.json(200, {"success": True})


async def _replay(call: Call, identity: Identity, found: Description) -> None:
    reading = await resume(call.edge, identity, found.stream_id, 0, is_compact=True, transport="sse")
    if reading is None:
        await call.answer(204, b"", "")
        return
    writing = Writing(found.stream_id, fronts.remembered_of(found, ui.DIALECT))
    await FrontResponse(call.edge, call, reading.session, reading.channel, writing).run()


async def _of_chat(call: Call, identity: Identity) -> Description | None:
    stream_id = await call.edge.reads.of_chat(identity.owner, call.path["chat_id"])
    if stream_id is None:
        return None
    try:
        return await find(call.edge, identity, stream_id)
    except TokenrelayError as error:
        if error.code in ("NOT_FOUND", "STREAM_EXPIRED"):
            return None
        raise


def _is_replayed(found: Description, now_s: float) -> bool:
    if not found.has_ended:
        return True
    is_cancelled = found.public_state == "cancelled"
    return not is_cancelled and found.ended_ms is not None and now_s - found.ended_ms / 1000 < REPLAY_GRACE_S
