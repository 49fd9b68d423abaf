"""Limits and Idempotency-Keys are exact in a cluster too, whoever races and wherever one dies: owner and stream are in
two slots."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from tests.cluster.servers import Servers
from tests.cluster.test_store import cluster_of
from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.runtime.stores.cluster import Cluster
from tokenrelay.protocol.store import keys, partitions, scripts
from tokenrelay.protocol.store.scripts import Limits, NewStream, StartReply
from tokenrelay.server.store.jobs import JOB_TTL_MS, new_stream_id
from tokenrelay.server.store.partitions import Partitions
from tokenrelay.server.store.reserved_start import HELP_MS, ReservedStart

EDGES = 6
RETENTION_MS = 60_000
ROOMY = Limits(max_waiting=1_000)
_turn = itertools.count()


class Edge:
    """As much of one as starts streams."""

    def __init__(self, store: Cluster) -> None:
        self.store = store
        self.partitions = Partitions(store)
        self.starts = ReservedStart(store, self.partitions, RETENTION_MS, JOB_TTL_MS)

    async def start(self, new: NewStream, limits: Limits = ROOMY) -> StartReply:
        return await self.starts.start(new, limits, b"job")

    async def reserve(self, new: NewStream, limits: Limits = ROOMY) -> str:
        """And die before the next step."""
        asked = scripts.reserve(new, limits, RETENTION_MS)
        return scripts.reserve_reply(await self.store.run(scripts.RESERVE, asked)).outcome


def new(key: str | None = None, body: str = "b", owner: str = "alice", chat: str | None = None) -> NewStream:
    tags = partitions.tags(4)
    stream_id = new_stream_id(tags[next(_turn) % len(tags)])
    return NewStream(stream_id, owner, "m", b"prompt", "continue", key, body, chat_id=chat)


def play(servers: Servers, scene: Callable[[list[Edge]], Awaitable[None]]) -> None:
    async def main() -> None:
        stores = [cluster_of(servers) for _ in range(EDGES)]
        try:
            await scene([Edge(store) for store in stores])
        finally:
            for store in stores:
                await store.aclose()

    asyncio.run(main())


async def outcomes(edges: list[Edge], many: list[NewStream], limits: Limits) -> list[StartReply]:
    asked = (edge.start(each, limits) for edge, each in zip(itertools.cycle(edges), many, strict=False))
    return await asyncio.gather(*asked)


async def state(edge: Edge, stream_id: str) -> bytes | None:
    found: bytes | None = await edge.store.ask("HGET", keys.meta(stream_id), "state")
    return found


def test_of_many_that_race_exactly_as_many_start_as_may(servers: Servers) -> None:
    async def scene(edges: list[Edge]) -> None:
        replies = await outcomes(edges, [new() for _ in range(60)], Limits(1_000, max_active=7))
        assert sorted(reply.outcome for reply in replies) == ["busy"] * 53 + ["started"] * 7
        assert await edges[0].store.ask("ZCARD", keys.CLUSTER.active("alice")) == 7

    play(servers, scene)


def test_of_a_minute_as_many_start_as_may(servers: Servers) -> None:
    async def scene(edges: list[Edge]) -> None:
        replies = await outcomes(edges, [new() for _ in range(40)], Limits(1_000, per_minute=5))
        assert sorted(reply.outcome for reply in replies) == ["limited"] * 35 + ["started"] * 5

    play(servers, scene)


def test_one_key_is_one_stream_however_many_ask(servers: Servers) -> None:
    async def scene(edges: list[Edge]) -> None:
        replies = await outcomes(edges, [new("key") for _ in range(60)], Limits(1_000, max_active=3, per_minute=2))
        ids = {reply.stream_id for reply in replies}
        assert len(ids) == 1
        assert {reply.outcome for reply in replies} <= {"started", "existing"}
        assert await state(edges[0], ids.pop()) == b"queued"
        other = await edges[1].start(new("key", body="another"))
        assert other.outcome == "conflict"

    play(servers, scene)


def test_a_retry_carries_through_what_a_dead_edge_has_reserved(servers: Servers) -> None:
    async def scene(edges: list[Edge]) -> None:
        first = new("key")
        assert await edges[0].reserve(first) == "reserved"
        reply = await edges[1].start(new("key"))
        assert (reply.outcome, reply.stream_id) == ("existing", first.stream_id)
        assert await state(edges[2], first.stream_id) == b"queued"
        with_parts = msgspec.structs.replace(new("other"), parts=scripts.held_parts("x" * 8, "alice", [3]))
        assert await edges[0].reserve(new("other")) == "reserved"
        with pytest.raises(TokenrelayError, match="is being started"):
            await edges[1].start(with_parts)

    play(servers, scene)


def test_what_was_reserved_for_a_key_and_never_came_is_replaced(servers: Servers) -> None:
    async def scene(edges: list[Edge]) -> None:
        lost, again = new("key", body="lost"), new("key")
        assert await edges[0].reserve(lost) == "reserved"
        assert (await edges[1].start(again)).outcome == "conflict"  # it may still come
        long_ago = int(time.time() * 1000) - HELP_MS - 1_000
        await edges[0].store.ask("HSET", keys.CLUSTER.idempotency("alice", "key"), "at", long_ago)
        assert (await edges[1].start(again)).outcome == "started"
        assert (await edges[2].start(new("key"))).stream_id == again.stream_id

    play(servers, scene)


def test_a_reservation_without_a_stream_stops_counting(servers: Servers) -> None:
    limits = Limits(1_000, max_active=2)

    async def scene(edges: list[Edge]) -> None:
        runs, dead = new(), new()
        assert (await edges[0].start(runs, limits)).outcome == "started"
        assert await edges[1].reserve(dead, limits) == "reserved"
        assert (await edges[2].start(new(), limits)).outcome == "busy"  # its edge may be about to start it
        long_ago = int(time.time() * 1000) - 6_000
        for each in (runs, dead):
            await edges[0].store.ask("ZADD", keys.CLUSTER.active("alice"), long_ago, each.stream_id)
        assert (await edges[2].start(new(), limits)).outcome == "started"
        assert (await edges[2].start(new(), limits)).outcome == "busy"
        assert await edges[0].store.ask("ZSCORE", keys.CLUSTER.active("alice"), dead.stream_id) is None

    play(servers, scene)


def test_what_its_partition_refuses_gives_its_room_back(servers: Servers) -> None:
    limits = Limits(0, max_active=1, per_minute=1)

    async def scene(edges: list[Edge]) -> None:
        edges[0].partitions.waiting.number = -1  # as if the last look had found room
        refused = new("key", chat="c")
        assert (await edges[0].start(refused, limits)).outcome == "overloaded"
        left = [keys.CLUSTER.active("alice"), keys.CLUSTER.owner("alice"), keys.CLUSTER.rate("alice")]
        left += [keys.CLUSTER.idempotency("alice", "key"), keys.CLUSTER.chat("alice", "c")]
        assert [await edges[0].store.ask("EXISTS", name) for name in left] == [0] * 5
        assert (await edges[1].start(refused, Limits(9, max_active=1, per_minute=1))).outcome == "started"

    play(servers, scene)


def test_a_start_whose_reply_was_lost_is_the_same_start(servers: Servers) -> None:
    limits = Limits(1_000, max_active=1, per_minute=1)

    async def scene(edges: list[Edge]) -> None:
        once = new()
        assert [(await edges[0].start(once, limits)).outcome for _ in range(3)] == ["started"] * 3
        assert (await edges[1].start(new(), limits)).outcome in ("busy", "limited")

    play(servers, scene)


def test_the_bounds_of_the_whole_queue_hold_within_a_look(servers: Servers) -> None:
    async def scene(edges: list[Edge]) -> None:
        limits = Limits(4, share_percent=50)
        for who in ("a", "a", "b"):
            assert (await edges[0].start(new(owner=who), limits)).outcome == "started"
        assert (await edges[0].start(new(owner="a"), limits)).outcome == "share"
        late = scripts.reap(10, b"lost", b"late", 60_000, RETENTION_MS)
        await edges[1].partitions.reap(late)  # another edge learns of it by its look
        assert edges[1].partitions.waiting.number == 3
        assert (await edges[1].start(new(owner="a"), limits)).outcome == "share"
        assert (await edges[1].start(new(owner="c"), limits)).outcome == "started"
        assert (await edges[1].start(new(owner="d"), limits)).outcome == "overloaded"

    play(servers, scene)


def test_who_ends_a_stream_takes_it_out_of_its_owners(servers: Servers) -> None:
    async def scene(edges: list[Edge]) -> None:
        late = new()
        await edges[0].start(late)
        await asyncio.sleep(0.01)
        reply = await edges[1].partitions.reap(scripts.reap(10, b"lost", b"late", 1, RETENTION_MS))
        assert reply.late == 1
        assert await state(edges[0], late.stream_id) == b"failed"
        assert await edges[0].store.ask("ZCARD", keys.CLUSTER.active("alice")) == 0

    play(servers, scene)
