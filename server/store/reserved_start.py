"""A start in a cluster: room is reserved with the owner, then the stream is made in its partition. Two slots, so two
scripts; whoever dies between them leaves a reservation that a retry carries through, or that stops counting.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog
from redis.exceptions import RedisError

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.lifecycle import ENDED
from tokenrelay.protocol.runtime.redis import describe
from tokenrelay.protocol.runtime.stores.base import Store
from tokenrelay.protocol.store import keys, scripts
from tokenrelay.protocol.store.scripts import Limits, NewStream, ReserveReply, StartReply
from tokenrelay.server.store.partitions import Partitions
from tokenrelay.server.store.redis import asking, run

HELP_MS: Final = 60_000
"""What was reserved for an Idempotency-Key and did not come to be within this time is given up."""

MOST_TRIES: Final = 4

log = structlog.get_logger()


class ReservedStart:
    """The steps of one, in order."""

    def __init__(self, store: Store, partitions: Partitions, retention_ms: int, job_ttl_ms: int) -> None:
        self._store = store
        self._partitions = partitions
        self._retention_ms = retention_ms
        self._job_ttl_ms = job_ttl_ms

    async def start(self, new: NewStream, limits: Limits, job: bytes) -> StartReply:
        """As the script START says it. Raises TokenrelayError SERVICE_UNAVAILABLE."""
        is_free = new.idempotency_key is None and not limits.max_active and not limits.per_minute
        full = self._full(new, limits)
        if full is not None:
            with asking():
                await self._partitions.look_again()
            full = self._full(new, limits)
        if full is not None and new.idempotency_key is None:
            return full
        if is_free:  # nothing can speak against it: both leave together
            return await self._start_free(new, limits, job)
        reserved = await self._reserve(new, limits, job)
        if isinstance(reserved, StartReply):
            return reserved
        started = full or await self._make(new, limits, job)
        if started.outcome != "started":
            await self._give_back(new, limits)
            return started
        return msgspec.structs.replace(started, remaining=reserved.remaining, reset_ms=reserved.reset_ms)

    async def _start_free(self, new: NewStream, limits: Limits, job: bytes) -> StartReply:
        asked = self._ask_owner(new, limits), self._make(new, limits, job)
        reserved, started = await asyncio.gather(*asked, return_exceptions=True)
        if isinstance(started, BaseException):
            raise started
        if isinstance(reserved, BaseException):
            raise reserved  # the stream runs, as after any start whose reply was lost
        if started.outcome != "started":
            await self._give_back(new, limits)
        return started

    async def _reserve(self, new: NewStream, limits: Limits, job: bytes) -> ReserveReply | StartReply:
        """A reservation, or why there is none and need be none."""
        replaces, ended, alive = "", list[str](), list[str]()
        for _ in range(MOST_TRIES):
            reply = await self._ask_owner(new, limits, replaces, ended, alive)
            match reply.outcome:
                case "reserved":
                    return reply
                case "limited":
                    return StartReply("limited", bound=reply.bound, retry_ms=reply.retry_ms)
                case "busy":
                    ended, alive = await self._look(reply.candidates)
                    if not ended:
                        return StartReply("busy", bound=reply.bound)
                case "existing" | "conflict":
                    if await self._is_there(reply.stream_id):
                        return StartReply(reply.outcome, reply.stream_id)
                    if reply.age_ms < HELP_MS:
                        return await self._help(reply, new, limits, job)
                    replaces = reply.stream_id
        return StartReply("busy", bound=limits.max_active)

    async def _help(self, reply: ReserveReply, new: NewStream, limits: Limits, job: bytes) -> StartReply:
        """Its edge has reserved and not made it yet, or died: made under its id, it is made once."""
        if reply.outcome == "conflict":
            return StartReply("conflict", reply.stream_id)
        if new.parts:  # their bytes lie under another id
            raise TokenrelayError("SERVICE_UNAVAILABLE", "the first of these requests is being started", retry_after=1)
        helped = await self._make(msgspec.structs.replace(new, stream_id=reply.stream_id), limits, job)
        return StartReply("existing", reply.stream_id) if helped.outcome == "started" else helped

    def _full(self, new: NewStream, limits: Limits) -> StartReply | None:
        """The bounds of the whole queue, as of the last look: no script sees more than its partition."""
        waiting, size = self._partitions.waiting, len(new.request)
        if waiting.number >= limits.max_waiting:
            return StartReply("overloaded", bound=waiting.number)
        if limits.max_bytes and waiting.number and waiting.bytes + size > limits.max_bytes:
            return StartReply("overloaded", bound=waiting.number)
        number, much = waiting.of_owner.get(keys.digest(new.owner), (0, 0))
        share = limits.share_percent / 100
        if share < 1 and number:
            is_over = number + 1 > math.floor(limits.max_waiting * share)
            if is_over or (limits.max_bytes and much + size > limits.max_bytes * share):
                return StartReply("share", bound=number)
        return None

    # -- one trip each -------------------------------------------------------------------------------------------------

    async def _ask_owner(
        self,
        new: NewStream,
        limits: Limits,
        replaces: str = "",
        ended: Sequence[str] = (),
        alive: Sequence[str] = (),
    ) -> ReserveReply:
        asked = scripts.reserve(new, limits, self._retention_ms, replaces=replaces, ended=ended, alive=alive)
        return scripts.reserve_reply(await run(self._store, scripts.RESERVE, asked))

    async def _make(self, new: NewStream, limits: Limits, job: bytes) -> StartReply:
        asked = scripts.start_reserved(
            new, limits, job=job, job_ttl_ms=self._job_ttl_ms, retention_ms=self._retention_ms
        )
        reply = scripts.start_reply(await run(self._store, scripts.START_RESERVED, asked))
        if reply.outcome == "started":
            self._partitions.waiting.count(keys.digest(new.owner), len(new.request))
        return reply

    async def _give_back(self, new: NewStream, limits: Limits) -> None:
        try:
            await run(self._store, scripts.RETURN, scripts.give_back(new, limits))
        except (TokenrelayError, RedisError) as error:  # it stops counting by itself
            log.warning("reservation_not_returned", error=describe(error.__cause__ or error))

    async def _look(self, stream_ids: Sequence[str]) -> tuple[list[str], list[str]]:
        """Which of these have ended or never came to be, and which have not as far as can be seen."""
        with asking():
            states = await self._store.ask_many([("HGET", keys.meta(each), "state") for each in stream_ids])
        ended, alive = list[str](), list[str]()
        for stream_id, state in zip(stream_ids, states, strict=True):
            is_over = state is None or (isinstance(state, bytes) and state.decode("ascii", "replace") in ENDED)
            (ended if is_over else alive).append(stream_id)
        return ended, alive

    async def _is_there(self, stream_id: str) -> bool:
        with asking():
            return bool(await self._store.ask("EXISTS", keys.meta(stream_id)))
