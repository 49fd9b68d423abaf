"""`/v1/chat/completions` and `/v1/models`: what OpenAI's Chat Completions clients ask. Knows no queue."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.fronts import chat, openai
from tokenrelay.protocol.fronts.asked import Remembered
from tokenrelay.protocol.reading.feed import Format
from tokenrelay.protocol.reading.session import Session
from tokenrelay.protocol.store.entries import Entry
from tokenrelay.protocol.wire import cursor
from tokenrelay.protocol.wire.snapshot import Snapshot
from tokenrelay.server.access.auth import Identity
from tokenrelay.server.fronts import begun as fronts
from tokenrelay.server.fronts import openai_errors
from tokenrelay.server.generations import Description, find, resume
from tokenrelay.server.http import Call
from tokenrelay.server.timing import RequestTimer
from tokenrelay.server.transports import document
from tokenrelay.server.transports.front import FrontResponse
from tokenrelay.server.transports.wait_for_end import until_ended

ERRORS = openai_errors.told
PREFIX = "chatcmpl-"


class Writing:
    """How Chat Completions writes a stream."""

    headers: Mapping[str, str] = {}

    def __init__(self, stream_id: str, remembered: Remembered, model: str, *, with_ids: bool = False) -> None:
        self._chunks = chat.Chunks(remembered, with_ids=with_ids)
        self.form: Format | None = self._chunks.format
        self._stream_id = stream_id
        self._model = model
        self._with_ids = with_ids

    def opening(self) -> bytes:
        return b": hb\n\n"  # the head leaves at once; a comment with no id before it disturbs no SDK

    def let_go(self) -> bool:
        return False  # it keeps no text

    def take(self, entry: Entry, entry_id: int) -> bytes:
        return self._chunks.encode(entry, entry_id, self._stream_id)

    def heartbeat(self, cursor: int) -> bytes:
        if self._with_ids:  # after an `id:` line a blank line alone is an event to openai-python
            return b": hb\n"
        # Before the first entry nobody knows who answers; after it hand-made parsers break at comments.
        return self._chunks.heartbeat(self._stream_id, self._model) if cursor else b": hb\n\n"

    def refusal(self, error: TokenrelayError) -> bytes:
        return openai.frame(openai.error_object(error)) + chat.DONE


async def completions(call: Call) -> None:
    """`POST /v1/chat/completions`."""
    edge = call.edge
    identity = call.identity = edge.auth.identify(call.headers.get("authorization"))
    with edge.connection(identity), fronts.timed(call) as timer:
        begun, is_streamed = await _begin(call, identity, timer)
        if not is_streamed:
            found = await until_ended(call, identity, begun.stream_id, begun.channel)
            await _send(call, found, begun.remembered, {"x-stream-id": begun.stream_id})
        elif begun.channel is None:
            await _attach(call, identity, begun.stream_id, cursor.parse(call.headers.get("last-event-id")))
        else:
            session = Session(begun.stream_id, 0, is_compact=True, now=time.monotonic())
            writing = Writing(begun.stream_id, begun.remembered, begun.model)
            await FrontResponse(edge, call, session, begun.channel, writing, timer).run()


async def _begin(call: Call, identity: Identity, timer: RequestTimer) -> tuple[fronts.Begun, bool]:
    """And whether it is streamed. The conversation does not stay while the answer runs."""
    with call.edge.limits.large_bodies.place(identity.owner) as place:
        raw = await call.body(identity, place)
        left, now_s = fronts.on_disconnect(call), call.at_ms // 1000
        made = await fronts.parsed(
            call, raw, lambda bounds: chat.parse(raw, on_disconnect=left, now_s=now_s, bounds=bounds)
        )
        return await fronts.start(call, identity, made, timer), made.request.stream


async def completion(call: Call) -> None:
    """`GET /v1/chat/completions/{id}`: the object of an answer, or with `?stream=true` its chunks after a cursor."""
    identity = call.identity = call.edge.auth.identify(call.headers.get("authorization"))
    stream_id = call.path["completion_id"].removeprefix(PREFIX)
    if call.query.get("stream") == "true":
        after = cursor.parse(call.headers.get("last-event-id", "").strip() or call.query.get("starting_after"))
        with call.edge.connection(identity):
            await _attach(call, identity, stream_id, after, with_ids=True)
        return
    found = await find(call.edge, identity, stream_id)
    if not found.has_ended:
        raise TokenrelayError("INVALID_REQUEST", "the answer is not complete yet: read it with stream=true")
    await _send(call, found, fronts.remembered_of(found, chat.DIALECT))


async def _send(call: Call, found: Description, remembered: Remembered, headers: dict[str, str] | None = None) -> None:
    """The object, its text written while the log is read. Raises TokenrelayError for an answer that is not whole."""
    await fronts.check_complete(call, found)

    async def pieces() -> AsyncIterator[str]:
        snapshot, made = Snapshot(), chat.Document()
        yield made.begin()
        async for text in document.texts(call, found, snapshot):
            yield made.take(text)
        yield made.end(chat.whole(snapshot, found.stream_id, remembered))

    await document.write(call, found, pieces(), headers)


async def delete(call: Call) -> None:
    """`DELETE /v1/chat/completions/{id}`: stops it if it runs, and forgets it."""
    identity = call.identity = call.edge.auth.identify(call.headers.get("authorization"))
    found = await find(call.edge, identity, call.path["completion_id"].removeprefix(PREFIX))
    if not found.has_ended:
        await call.edge.jobs.cancel(found)
    await call.edge.jobs.forget(found)
    told = {"id": f"{PREFIX}{found.stream_id}", "object": "chat.completion.deleted", "deleted": True}
    await call.json(200, told)


async def _attach(call: Call, identity: Identity, stream_id: str, after: int, *, with_ids: bool = False) -> None:
    reading = await resume(call.edge, identity, stream_id, after, is_compact=True, transport="sse")
    if reading is None:
        await call.answer(204, b"", "", {"x-stream-id": stream_id})
        return
    found = reading.found
    writing = Writing(stream_id, fronts.remembered_of(found, chat.DIALECT), found.model, with_ids=with_ids)
    await FrontResponse(call.edge, call, reading.session, reading.channel, writing).run()


async def models(call: Call) -> None:
    """`GET /v1/models`: what can answer now."""
    call.identity = call.edge.auth.identify(call.headers.get("authorization"))
    rows = [row for row in call.edge.models.listing() if row["available"]]
    told = [chat.model_object(row["id"], row["provider"]) for row in rows]
    await call.json(200, {"object": "list", "data": told})


async def model(call: Call) -> None:
    """`GET /v1/models/{id}`: the id may hold `/` and `?`."""
    call.identity = call.edge.auth.identify(call.headers.get("authorization"))
    name = call.path["model_id"]
    wanted = name.lower()
    for row in call.edge.models.listing():
        if wanted in (row["id"].lower(), *(each.lower() for each in row["names"])):
            await call.json(200, chat.model_object(name, row["provider"]))
            return
    raise TokenrelayError("VALIDATION_ERROR", f"The model '{name[:200]}' does not exist", field="model", unknown=True)
