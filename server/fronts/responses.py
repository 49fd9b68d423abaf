"""`/v1/responses`: what OpenAI's Responses clients ask. Knows no queue."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.fronts import openai, responses
from tokenrelay.protocol.fronts.asked import Remembered
from tokenrelay.protocol.fronts.responses_document import Document
from tokenrelay.protocol.fronts.responses_fold import Fold
from tokenrelay.protocol.reading.feed import Format
from tokenrelay.protocol.reading.session import Session
from tokenrelay.protocol.store.entries import Entry
from tokenrelay.server.access import bodies
from tokenrelay.server.access.auth import Identity
from tokenrelay.server.fronts import begun as fronts
from tokenrelay.server.fronts import openai_errors
from tokenrelay.server.generations import Description, find, resume
from tokenrelay.server.http import Call
from tokenrelay.server.live import replay
from tokenrelay.server.timing import RequestTimer
from tokenrelay.server.transports import document
from tokenrelay.server.transports.front import FrontResponse
from tokenrelay.server.transports.wait_for_end import until_ended

ERRORS = openai_errors.told
PREFIX = "resp_"
SILENT = sys.maxsize
"""A cursor that nothing lies beyond."""

MAX_KEPT_CHARACTERS = 2 * 1024
"""Of an answer whose client accepts nothing; beyond, the log is folded again when it does."""

MAX_REFERENCES = 64
"""Earlier answers that one request may refer to: each costs the reading of its log."""


class Writing:
    """How Responses writes a stream: each reader folds the log from its first entry."""

    headers: Mapping[str, str] = {}
    form: Format | None = None

    def __init__(self, stream_id: str, remembered: Remembered, model: str, after: int) -> None:
        self._again = functools.partial(Fold, stream_id, remembered, model)
        self._after = after
        self._fold = self._again(after)

    def opening(self) -> bytes:
        return self._fold.begin()

    def let_go(self) -> bool:
        if self._fold.characters <= MAX_KEPT_CHARACTERS:
            return False
        self._after = max(self._after, self._fold.number)
        self._fold = self._again(self._after)
        self._fold.begin()
        return True

    def take(self, entry: Entry, entry_id: int) -> bytes:
        return self._fold.take(entry, entry_id)

    def heartbeat(self, _: int) -> bytes:
        return b": hb\n\n"  # no `id:` line ever stands before it

    def refusal(self, error: TokenrelayError) -> bytes:
        told = openai.error_object(error)["error"]
        return responses.sse("error", self._fold.number + 1, {**told, "type": "error"})


async def create(call: Call) -> None:
    """`POST /v1/responses`."""
    edge = call.edge
    identity = call.identity = edge.auth.identify(call.headers.get("authorization"))
    with edge.connection(identity), fronts.timed(call) as timer:
        begun, is_streamed = await _begin(call, identity, timer)
        is_background = bool(begun.remembered.options.get("background"))
        stream_id = begun.stream_id
        headers = {"x-stream-id": stream_id}
        if is_streamed and begun.channel is not None:
            session = Session(stream_id, 0, is_compact=False, now=time.monotonic())
            writing = Writing(stream_id, begun.remembered, begun.model, -1)
            await FrontResponse(edge, call, session, begun.channel, writing, timer).run()
        elif is_streamed:
            await _stream(call, identity, stream_id, -1)
        elif is_background:
            if begun.channel is not None:
                edge.hub.leave(begun.channel)
            await _send(call, await find(edge, identity, stream_id), headers)
        else:
            await _send(call, await until_ended(call, identity, stream_id, begun.channel), headers)


async def _begin(call: Call, identity: Identity, timer: RequestTimer) -> tuple[fronts.Begun, bool]:
    """And whether it is streamed. The conversation does not stay while the answer runs."""
    with call.edge.limits.large_bodies.place(identity.owner) as place:
        raw = await call.body(identity, place)
        items = await _items(call, identity, await bodies.beside(raw, lambda: responses.references(openai.decode(raw))))
        left, now_s = fronts.on_disconnect(call), call.at_ms // 1000
        made = await fronts.parsed(
            call, raw, lambda bounds: responses.parse(raw, on_disconnect=left, now_s=now_s, items=items, bounds=bounds)
        )
        return await fronts.start(call, identity, made, timer), made.request.stream


async def retrieve(call: Call) -> None:
    """`GET /v1/responses/{id}`: the object in any state, or with `?stream=true` the events after a number."""
    identity, found = await _found(call)
    if call.query.get("stream") == "true":
        with call.edge.connection(identity):
            await _stream(call, identity, found.stream_id, _number(call.query.get("starting_after")))
        return
    await _send(call, found)


async def cancel(call: Call) -> None:
    """`POST /v1/responses/{id}/cancel`: the object as it is then."""
    identity, found = await _found(call)
    call.edge.metrics.cancels.labels("http").inc()
    if not found.has_ended:
        await call.edge.jobs.cancel(found)
        found = await find(call.edge, identity, found.stream_id)
    await _send(call, found, unless_ended="cancelled")  # the cancel is stored by now; the end follows


async def delete(call: Call) -> None:
    """`DELETE /v1/responses/{id}`: stops it if it runs, and forgets it."""
    _, found = await _found(call)
    if not found.has_ended:
        await call.edge.jobs.cancel(found)
    await call.edge.jobs.forget(found)
    await call.json(200, {"id": f"{PREFIX}{found.stream_id}", "object": "response.deleted", "deleted": True})


async def input_items(call: Call) -> None:
    """`GET /v1/responses/{id}/input_items`: while the answer runs; a prompt is not kept after it."""
    _, found = await _found(call)
    asked = await call.edge.reads.request_of(found.stream_id)
    if asked is None:
        raise TokenrelayError("NOT_FOUND", "the input is not kept after the answer")
    items = responses.input_items(found.stream_id, asked)
    if call.query.get("order", "desc") == "desc":  # the newest first, as OpenAI has it
        items.reverse()
    await call.json(200, responses.item_list(items))


async def _found(call: Call) -> tuple[Identity, Description]:
    identity = call.identity = call.edge.auth.identify(call.headers.get("authorization"))
    return identity, await find(call.edge, identity, call.path["response_id"].removeprefix(PREFIX))


def _number(value: str | None) -> int:
    if not value:
        return -1
    if not value.isascii() or not value.isdigit() or len(value) > 15:
        raise TokenrelayError("VALIDATION_ERROR", "starting_after: expected a number", field="starting_after")
    return int(value)


async def _stream(call: Call, identity: Identity, stream_id: str, after: int) -> None:
    found = await find(call.edge, identity, stream_id)
    remembered = fronts.remembered_of(found, responses.DIALECT)
    if after >= 0:
        last = await _last_number(call, found)
        if after > last:
            raise TokenrelayError("CURSOR_AHEAD", f"starting_after: the last event is {last}", field="starting_after")
    reading = await resume(call.edge, identity, stream_id, 0, is_compact=False, transport="sse")
    if reading is None:
        raise TokenrelayError("STREAM_EXPIRED")
    writing = Writing(stream_id, remembered, found.model, after)
    await FrontResponse(call.edge, call, reading.session, reading.channel, writing).run()


def _silent_fold(found: Description) -> Fold:
    """One that encodes no event: for those who want the object, or the number."""
    remembered = fronts.remembered_of(found, responses.DIALECT)
    return Fold(found.stream_id, remembered, found.model, SILENT)


async def _pages(call: Call, found: Description, *, is_compact: bool) -> AsyncIterator[replay.Numbered]:
    """The log so far, page by page."""
    session = Session(found.stream_id, 0, is_compact=is_compact, now=0.0)
    while session.cursor < found.last_id:
        try:
            page = await document.page(call, session)
        except LookupError as error:
            raise TokenrelayError("STREAM_EXPIRED", stream_id=found.stream_id) from error
        session.cursor = page[-1][0]
        yield page


async def _send(
    call: Call, found: Description, headers: dict[str, str] | None = None, *, unless_ended: str | None = None
) -> None:
    """The object, written while its log is read. `unless_ended`: the status of one that has no end yet."""

    async def pieces() -> AsyncIterator[str]:
        made = Document(_silent_fold(found))
        yield made.begin()
        async for page in _pages(call, found, is_compact=True):
            yield made.take(page)
        yield made.end(unless_ended)

    await document.write(call, found, pieces(), headers)


async def _last_number(call: Call, found: Description) -> int:
    """Of the event that was told last."""
    fold = _silent_fold(found)
    fold.begin()
    async for page in _pages(call, found, is_compact=False):
        for entry_id, entry in page:
            fold.take(entry, entry_id)
        fold.cut()
    return fold.number


async def _fold(call: Call, found: Description) -> Fold:
    """The log so far, whole."""
    fold = _silent_fold(found)
    fold.begin()
    async for page in _pages(call, found, is_compact=True):
        for entry_id, entry in page:
            fold.take(entry, entry_id)
    return fold


async def _items(call: Call, identity: Identity, ids: list[str]) -> dict[str, dict[str, Any]]:
    """Output items of earlier answers of the same owner, by ids that carry the stream's."""
    streams = dict.fromkeys(item_id.partition("_")[2].rpartition("_")[0] for item_id in ids)
    if len(streams) > MAX_REFERENCES:
        issue = f"items of at most {MAX_REFERENCES} answers can be referred to"
        raise TokenrelayError("VALIDATION_ERROR", f"input: {issue}", field="input", issue=issue)
    found: dict[str, dict[str, Any]] = {}
    for stream_id in streams:  # each log is read once, however many of its items are named
        try:
            fold = await _fold(call, await find(call.edge, identity, stream_id))
        except TokenrelayError as error:
            if error.code not in ("NOT_FOUND", "STREAM_EXPIRED"):
                raise
            continue  # said by whoever reads the input: there is no such item
        found |= {item["id"]: item for item in fold.output}
    return found
