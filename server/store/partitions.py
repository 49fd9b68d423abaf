"""The partitions as an edge looks after them: which ones are its to reap, what waits in all of them. One server is one
partition, and always ours.

Three edges look after each partition of a cluster, those that come first when edges are ranked by a hash of both. All
do while it is not known which edges there are.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, Final

import msgspec
import structlog
from redis.exceptions import RedisError

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.runtime.redis import describe
from tokenrelay.protocol.runtime.stores.base import Store
from tokenrelay.protocol.store import keys, partitions, scripts
from tokenrelay.protocol.store.scripts import Argument, ReapReply
from tokenrelay.server.store.redis import UNREACHABLE, run

KEEPERS: Final = 3
EDGE_MS: Final = 5_000
"""An edge that was not heard of for this long looks after nothing."""

REAP_TIMEOUT_S: Final = 3.0
LOOK_AGAIN_S: Final = 0.02

log = structlog.get_logger()


class Waiting(msgspec.Struct):
    """What waits in a cluster, of all keys and of each, by the digest of its owner; as of the last look, with what this
    edge has started since."""

    number: int = 0
    bytes: int = 0
    of_owner: dict[str, tuple[int, int]] = {}
    parts: dict[str, int] = {}
    """What parts of requests take, of all (`all`) and of each owner."""

    def count_parts(self, owner: str, size: int) -> None:
        for whose in ("all", owner):
            self.parts[whose] = self.parts.get(whose, 0) + size

    def has_room(self, owner: str, size: int, most: int, most_of_owner: int) -> bool:
        """For parts of that size."""
        return all(self.parts.get(whose, 0) + size <= bound for whose, bound in (("all", most), (owner, most_of_owner)))

    def count(self, owner: str, size: int) -> None:
        number, much = self.of_owner.get(owner, (0, 0))
        self.of_owner[owner] = number + 1, much + size
        self.number += 1
        self.bytes += size


class Partitions:
    """One an edge."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._edge = secrets.token_hex(8)
        self._ours: tuple[str, ...] = store.tags
        self._edges: tuple[str, ...] = ()
        self.waiting = Waiting()
        self._looked_at = 0.0  # by the monotonic clock

    def __repr__(self) -> str:
        return f"<Partitions {len(self._ours)} of {len(self._store.tags)} ours | {self.waiting.number} wait>"

    async def reap(self, arguments: Sequence[Argument]) -> ReapReply:
        """End what is overdue in what is ours. Raises TokenrelayError where a server cannot be asked: the others
        were."""
        if not self._store.names.is_cluster:
            return scripts.reap_reply(await run(self._store, scripts.REAP, arguments))
        await self._meet_edges()
        by_server: dict[str, list[str]] = {}
        for tag in await self._with_something():
            by_server.setdefault(self._store.server_of(tag) or "", []).append(tag)
        replies: list[ReapReply] = []
        failures = await asyncio.gather(
            *(self._reap_server(tags, arguments, replies) for tags in by_server.values()), return_exceptions=True
        )
        await self.leave([each for reply in replies for each in reply.over])
        for failure in failures:
            if isinstance(failure, BaseException):
                raise failure
        lost, again, late = (sum(getattr(reply, name) for reply in replies) for name in ("lost", "again", "late"))
        return ReapReply(lost, again, late)

    async def _reap_server(self, tags: list[str], arguments: Sequence[Argument], replies: list[ReapReply]) -> None:
        try:
            async with asyncio.timeout(REAP_TIMEOUT_S):
                for tag in tags:
                    raw = await run(self._store, scripts.REAP, arguments, tag)
                    replies.append(scripts.reap_reply(raw))
        except TimeoutError:
            raise TokenrelayError("SERVICE_UNAVAILABLE", "a server of the cluster does not answer") from None

    async def leave(self, over: Iterable[tuple[str, str]]) -> None:
        """Streams that have ended, each with its owner's set of active ones: in a cluster the set is in another slot.
        One that is missed counts until a start of its owner looks at it."""
        commands = [("ZREM", active, stream_id) for stream_id, active in over]
        if not commands:
            return
        try:
            answers = await self._store.ask_many(commands)
        except (*UNREACHABLE, RedisError) as error:
            answers = [error]
        for answer in answers:
            if isinstance(answer, Exception):
                log.warning("active_not_left", error=describe(answer))
                return

    async def with_ended(self) -> Sequence[str]:
        """Those of ours in which a webhook waits."""
        if not self._store.names.is_cluster:
            return self._store.tags
        counts = await self._store.ask_many([("ZCARD", keys.within(tag, keys.ENDED)) for tag in self._ours], wait_s=0)
        return [tag for tag, count in zip(self._ours, counts, strict=True) if isinstance(count, int) and count]

    async def depth(self) -> int:
        """How many generations wait. Raises RedisError, OSError."""
        counts = await self._store.ask_all([("ZCARD", keys.within(tag, keys.WAITING)) for tag in self._store.tags])
        return sum(counts)

    async def look_again(self) -> None:
        """Before somebody is refused for what the last look saw. Raises RedisError, OSError."""
        if time.monotonic() - self._looked_at >= LOOK_AGAIN_S:
            await self._with_something()

    # -- in a cluster --------------------------------------------------------------------------------------------------

    async def _with_something(self) -> list[str]:
        """Those of ours in which something may be overdue; looks at what waits in all."""
        self._looked_at = time.monotonic()
        tags, ours = self._store.tags, self._ours
        asked = [("ZCARD", keys.within(tag, keys.WAITING)) for tag in tags]
        asked += [("ZCARD", keys.within(tag, keys.PARTS)) for tag in tags]
        asked += [("ZCARD", keys.within(tag, keys.LEASES)) for tag in ours]
        counts = [count if isinstance(count, int) else 0 for count in await self._store.ask_many(asked, wait_s=0)]
        lengths, parts, leases = counts[: len(tags)], counts[len(tags) : 2 * len(tags)], counts[2 * len(tags) :]
        waiting = {tag for tag, count in zip(tags, lengths, strict=True) if count}
        holding = {tag for tag, count in zip(tags, parts, strict=True) if count}
        leased = {tag for tag, count in zip(ours, leases, strict=True) if count}
        await self._count(waiting, holding, sum(lengths))
        return [tag for tag in ours if tag in waiting | holding | leased]

    async def _count(self, waiting: Iterable[str], holding: Iterable[str], number: int) -> None:
        """What waits, and what parts take, in the partitions that have any."""
        now = Waiting(number)
        for fields in await self._store.ask_many(
            [("HGETALL", keys.within(tag, keys.QUEUED)) for tag in waiting], wait_s=0
        ):
            if isinstance(fields, dict):
                _add(now, fields)
        for fields in await self._store.ask_many(
            [("HGETALL", keys.within(tag, keys.PARTS_BYTES)) for tag in holding], wait_s=0
        ):
            for whose, much in fields.items() if isinstance(fields, dict) else ():
                name = whose.decode("ascii", "replace")
                now.parts[name] = now.parts.get(name, 0) + int(much)
        self.waiting = now

    async def _meet_edges(self) -> None:
        name = self._store.names.for_all(keys.EDGES)
        try:
            [[seconds, micros]] = await self._store.ask_all([("TIME",)], partitions.GLOBAL, wait_s=0)
            now = seconds * 1000 + micros // 1000
            *_, edges = await self._store.ask_all([
                ("ZADD", name, now, self._edge),
                ("ZREMRANGEBYSCORE", name, "-inf", now - EDGE_MS),
                ("PEXPIRE", name, 10 * EDGE_MS),
                ("ZRANGE", name, 0, -1),
            ], wait_s=0)  # fmt: skip
        except (*UNREACHABLE, RedisError):
            edges = []
        found = tuple(edge.decode("ascii", "replace") for edge in edges)
        if found != self._edges:
            self._edges = found
            self._ours = tuple(tag for tag in self._store.tags if not found or self._edge in keepers(tag, found))


def keepers(tag: str, edges: Iterable[str]) -> list[str]:
    """Who looks after a partition."""
    return sorted(edges, key=lambda edge: blake2b(f"{tag} {edge}".encode(), digest_size=8).digest())[:KEEPERS]


def _add(waiting: Waiting, fields: dict[bytes, Any]) -> None:
    for raw, value in fields.items():
        field, much = raw.decode("ascii", "replace"), int(value)
        if field == "bytes":
            waiting.bytes += much
            continue
        owner, _, what = field.rpartition(":")
        number, size = waiting.of_owner.get(owner, (0, 0))
        waiting.of_owner[owner] = (number + much, size) if what == "n" else (number, size + much)
