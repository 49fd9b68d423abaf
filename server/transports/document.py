"""A log as one JSON object, written while it is read: a page at a time, whatever the length of the log. Knows no field
but the text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import structlog

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.reading.session import Session
from tokenrelay.protocol.store.entries import TOKEN, CorruptEntry
from tokenrelay.protocol.wire import event_json
from tokenrelay.protocol.wire.snapshot import Snapshot
from tokenrelay.server.generations import Description
from tokenrelay.server.http import Call, Disconnected
from tokenrelay.server.live import replay
from tokenrelay.server.net import peer

TRIES: Final = 20
PAUSE_S: Final = 0.5
"""Ten seconds for a Redis that is away."""

SHORT_ENTRIES: Final = 64
"""A log of so few entries is read in one piece and answered with a length."""

log = structlog.get_logger()


async def read_all(call: Call, found: Description) -> Snapshot:
    """The log up to where the description saw it. Raises TokenrelayError STREAM_EXPIRED, SERVICE_UNAVAILABLE."""
    snapshot = Snapshot()
    while snapshot.last_id < found.last_id:
        first, entries = await call.edge.reads.page(found.stream_id, snapshot.last_id, SHORT_ENTRIES)
        if not entries:
            raise TokenrelayError("STREAM_EXPIRED", stream_id=found.stream_id)
        snapshot.take(first, entries[: found.last_id - snapshot.last_id])
    return snapshot


async def last_of(call: Call, found: Description) -> Snapshot:
    """What the log's last entry says alone: how the stream ended, if it has. Raises TokenrelayError as `read_all`."""
    first, entries = await call.edge.reads.page(found.stream_id, max(found.last_id - 1, 0), 1)
    if not entries:
        raise TokenrelayError("STREAM_EXPIRED", stream_id=found.stream_id)
    snapshot = Snapshot(first - 1)
    snapshot.take(first, entries)
    return snapshot


async def send(
    call: Call,
    found: Description,
    text_field: str,
    fields_of: Callable[[Snapshot], dict[str, Any]],
    headers: dict[str, str] | None = None,
) -> None:
    """Answer with `fields_of` the whole log's snapshot. The field `text_field` holds the text; where the log is long it
    is written as it is read, and the other fields follow."""
    if found.last_id <= SHORT_ENTRIES:
        await call.json(200, fields_of(await read_all(call, found)), headers)
        return

    async def pieces() -> AsyncIterator[str]:
        snapshot = Snapshot()
        yield f'{{"{text_field}":"'
        async for text in texts(call, found, snapshot):
            yield event_json.to_json(text)[1:-1]
        rest = {name: value for name, value in fields_of(snapshot).items() if name != text_field}
        yield f'",{event_json.to_json(rest)[1:]}'

    await write(call, found, pieces(), headers)


async def write(
    call: Call, found: Description, pieces: AsyncIterator[str], headers: dict[str, str] | None = None
) -> None:
    """Answer with a JSON object that is made while the log is read; a short log's has a length."""
    if found.last_id <= SHORT_ENTRIES:
        body = "".join([piece async for piece in pieces]).encode()
        kept = {"cache-control": "no-store", **(headers or {})}
        await call.answer(200, body, "application/json", kept)
        return
    kept = {"content-type": "application/json", "cache-control": "no-store", **(headers or {})}
    await call.start_of_unknown_length(200, kept)
    try:
        async for piece in pieces:
            await call.write_bounded(piece.encode())
    except (TokenrelayError, LookupError, CorruptEntry) as error:
        # The status is out: only a connection that breaks says that the object is not whole.
        log.warning("document_broken_off", stream_id=found.stream_id, error=type(error).__name__)
        peer.abort(call.send)
        raise Disconnected from error
    await call.write(b"", more=False)


async def texts(call: Call, found: Description, snapshot: Snapshot) -> AsyncIterator[str]:
    """The text, page by page; the snapshot takes everything else. Pages are read in turn with those of all readers."""
    session = Session(found.stream_id, 0, is_compact=True, now=0.0)
    while session.cursor < found.last_id:
        for entry_id, entry in await page(call, session):
            if entry_id > found.last_id and entry[0] != TOKEN:
                return
            session.cursor = entry_id
            text = snapshot.pass_on(entry_id, entry)
            if text:
                yield text


async def page(call: Call, session: Session) -> replay.Numbered:
    """Redis that is away is waited for, as for a replay, but not for ever: a document has no heartbeat."""
    for _ in range(TRIES):
        try:
            return await replay.shared(call.edge.replays.entries(session))
        except TokenrelayError:
            await asyncio.sleep(PAUSE_S)
    return await replay.shared(call.edge.replays.entries(session))
