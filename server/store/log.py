"""Reads: what a generation is and what its log holds. Writes nothing, decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

import msgspec
import structlog
from redis.exceptions import ResponseError

from tokenrelay.protocol import lifecycle
from tokenrelay.protocol.reading.session import PAGE_ENTRIES
from tokenrelay.protocol.runtime.redis import describe, is_about_the_data
from tokenrelay.protocol.runtime.stores.base import Store
from tokenrelay.protocol.store import entries, keys
from tokenrelay.protocol.store.entries import Entry
from tokenrelay.protocol.wire import request
from tokenrelay.protocol.wire.request import ChatRequest
from tokenrelay.server.store.redis import asking, patiently

_FIELDS: Final = ("owner", "state", "last", "model", "created", "cancel", "ended", "front", "deleted", "metadata")
_STATES: Final = frozenset({"queued", "running"}) | lifecycle.ENDED
LISTED: Final = 100
MAX_ID: Final = 2**53
MAX_MS: Final = 253_402_300_799_999
"""The last millisecond of the year 9999: what a date can say."""

log = structlog.get_logger()


class Description(msgspec.Struct, frozen=True):
    """A generation without its text. Times in ms by Redis's clock; `ended_ms` is None while it is not over."""

    stream_id: str
    owner: str
    state: lifecycle.State
    last_id: int
    model: str
    created_ms: int
    cancel_wanted: bool
    ended_ms: int | None
    has_log: bool
    front: bytes = b""
    """What the front that was asked needs for reading the log; b"": our own wire was."""
    is_deleted: bool = False
    metadata: dict[str, str] = {}
    """What the caller gave the stream."""

    @property
    def is_expired(self) -> bool:
        """Something was written, and it is past its retention."""
        return self.last_id > 0 and not self.has_log

    @property
    def has_ended(self) -> bool:
        return self.state in lifecycle.ENDED

    @property
    def public_state(self) -> lifecycle.PublicState:
        return lifecycle.public_state(self.state, self.cancel_wanted)


class LogReader:
    """All reads of an edge. Each raises TokenrelayError SERVICE_UNAVAILABLE when Redis is away."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def describe(self, stream_id: str) -> Description | None:
        """None when there is no such stream, or it is past the day its metadata outlives it."""
        found = await patiently(lambda: self._describe([stream_id]))
        return found[0]

    async def of_chat(self, owner: str, chat_id: str) -> str | None:
        """The newest stream of a chat, as a front's client named it; None for one that is not (any more) known."""
        found = await self._ask("GET", self._store.names.chat(owner, chat_id))
        return found.decode() if found else None

    async def page(self, stream_id: str, after: int, most: int = PAGE_ENTRIES) -> tuple[int, list[Entry]]:
        """Entries after an id: the id of the first and the entries; (0, []) when there are none.

        Ids are dense, so the page's ids follow from its first. Raises CorruptEntry for what is no log of ours.
        """
        try:
            rows = await self._ask("XRANGE", keys.log(stream_id), f"{after + 1}-0", "+", "COUNT", most)
        except ResponseError as error:
            raise entries.CorruptEntry("what is under the log's name is no log") from error
        if not rows:
            return 0, []
        first = int(rows[0][0].partition(b"-")[0])
        if rows[-1][0] != b"%d-0" % (first + len(rows) - 1):
            raise entries.CorruptEntry("the ids of the log are not consecutive")
        return first, [entries.unpack_entry(fields.get(b"e", b"")) for _, fields in rows]

    async def last_ids(self, stream_ids: Sequence[str]) -> list[int | None]:
        """The logs' last ids in one round trip; None for a stream whose metadata is gone."""
        asked = [("HGET", keys.meta(stream_id), "last") for stream_id in stream_ids]
        with asking():
            values = _values(await self._store.ask_many(asked))
        return [_last_id(stream_id, value) for stream_id, value in zip(stream_ids, values, strict=True)]

    async def request_of(self, stream_id: str) -> ChatRequest | None:
        """What was asked, without the bytes of its parts; None once the generation has ended."""
        raw: bytes | None = await self._ask("HGET", keys.meta(stream_id), "request")
        try:
            return None if raw is None else request.unpack(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            log.error("request_unreadable", stream_id=stream_id)
            return None

    async def of_owner(self, owner: str) -> list[Description]:
        """The owner's streams that can still be read, newest first, at most `LISTED`."""
        ids = [
            raw.decode("ascii", "replace")
            for raw in await self._ask("ZREVRANGE", self._store.names.owner(owner), 0, LISTED - 1)
        ]
        found = await patiently(lambda: self._describe([each for each in ids if keys.is_stream_id(each)]))
        return [item for item in found if item is not None and not item.is_expired and not item.is_deleted]

    async def _describe(self, stream_ids: Sequence[str]) -> list[Description | None]:
        asked: list[tuple[str, ...]] = []
        for stream_id in stream_ids:
            asked += [("HMGET", keys.meta(stream_id), *_FIELDS), ("EXISTS", keys.log(stream_id))]
        values = _values(await self._store.ask_many(asked))
        rows = zip(stream_ids, values[::2], values[1::2], strict=True)
        return [None if row is None else _description(stream_id, row, bool(exists)) for stream_id, row, exists in rows]

    async def _ask(self, *command: Any) -> Any:
        return await patiently(lambda: self._store.ask(*command))


def _values(values: list[Any]) -> list[Any]:
    """The answers to reads; None for a key that is of another kind than ours are.

    Raises what redis-py does when Redis is away, or in a state that may pass.
    """
    for value in values:
        if isinstance(value, Exception):
            if not is_about_the_data(value):
                raise value
            log.error("key_of_another_kind", error=describe(value))
    return [None if isinstance(value, Exception) else value for value in values]


def _description(stream_id: str, row: Sequence[bytes | None], has_log: bool) -> Description | None:
    """None for what is no metadata of ours: that costs this stream, not the list it stands in."""
    owner, state, last, model, created, cancel, ended, front, deleted, metadata = row
    if owner is None or state is None:
        return None
    try:
        found = Description(
            stream_id=stream_id,
            owner=owner.decode(),
            state=cast(lifecycle.State, state.decode()),
            last_id=_whole(last or b"0"),
            model=(model or b"").decode("utf-8", "replace"),
            created_ms=_whole(created or b"0", MAX_MS),
            cancel_wanted=cancel is not None,
            ended_ms=_whole(ended, MAX_MS) if ended else None,
            has_log=has_log,
            front=front or b"",
            is_deleted=deleted is not None,
            metadata=_metadata(metadata),
        )
    except ValueError as error:
        log.error("metadata_unreadable", stream_id=stream_id, error=type(error).__name__)
        return None
    if found.state not in _STATES:
        log.error("metadata_unreadable", stream_id=stream_id, error="no state of a stream")
        return None
    return found


def _metadata(raw: bytes | None) -> dict[str, str]:
    """What cannot be read is none: it decides nothing."""
    try:
        return msgspec.msgpack.decode(raw, type=dict[str, str]) if raw else {}
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}


def _last_id(stream_id: str, value: bytes | None) -> int | None:
    if value is None:
        return None
    try:
        return _whole(value)
    except ValueError:
        log.error("metadata_unreadable", stream_id=stream_id, error="no id")
        return None


def _whole(value: bytes, most: int = MAX_ID) -> int:
    """Raises ValueError for what no script of ours writes."""
    if not value.isdigit() or len(value) > 20 or int(value) > most:
        raise ValueError("expected a whole number")
    return int(value)
