"""The store over a real cluster: it finds what has moved, waits for what is being moved, and knows what was lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from redis.exceptions import RedisError

from tests.cluster.servers import Servers
from tokenrelay.protocol.runtime.address import parse_cluster
from tokenrelay.protocol.runtime.feeds import Feeds
from tokenrelay.protocol.runtime.stores.cluster import Cluster
from tokenrelay.protocol.store import keys, partitions, scripts

P = 4
TAGS = partitions.tags(P)


def cluster_of(servers: Servers, number: int = P) -> Cluster:
    address = parse_cluster(servers.url)
    assert address is not None
    return Cluster(address, number, 8)


@contextlib.asynccontextmanager
async def a_store(servers: Servers) -> AsyncIterator[Cluster]:
    store = cluster_of(servers)
    keeping = asyncio.create_task(store.keep_map())
    try:
        await store.agree()
        yield store
    finally:
        keeping.cancel()
        await store.aclose()


def play(servers: Servers, scene: Callable[[Cluster], Awaitable[None]]) -> None:
    async def main() -> None:
        async with a_store(servers) as store:
            await scene(store)

    asyncio.run(main())


def other_than(servers: Servers, slot: int) -> Any:
    owner = servers.owner_of(slot)
    return next(server for server in servers.primaries() if server is not owner)


def name(tag: str, what: str = "x") -> str:
    return f"tr:{{{tag}}}:{what}"


def test_each_question_goes_where_its_slot_is(servers: Servers) -> None:
    async def scene(store: Cluster) -> None:
        for tag in TAGS:
            await store.ask("SET", name(tag), tag)
        assert await store.ask_many([("GET", name(tag)) for tag in TAGS]) == [tag.encode() for tag in TAGS]
        assert len({store.server_of(tag) for tag in TAGS}) > 1

    play(servers, scene)


def test_processes_with_other_partitions_do_not_begin(servers: Servers) -> None:
    async def scene(_: Cluster) -> None:
        other = cluster_of(servers, 2 * P)
        with pytest.raises(ValueError, match=f"TOKENRELAY_REDIS_PARTITIONS.*with {P} partitions"):
            await other.agree()
        await other.aclose()

    play(servers, scene)


def test_what_has_moved_is_found_without_anybody_saying_so(servers: Servers) -> None:
    async def scene(store: Cluster) -> None:
        tag = TAGS[0]
        changes: list[str | None] = []
        await store.ask("SET", name(tag), "kept")
        store.on_change(lambda: changes.append(store.server_of(tag)))
        to = other_than(servers, partitions.slot(tag))
        await asyncio.to_thread(servers.move_at_once, partitions.slot(tag), to)
        assert await store.ask("GET", name(tag)) == b"kept"
        assert await store.ask_many([("GET", name(each)) for each in TAGS]) == [b"kept", None, None, None]
        assert changes[-1] == to.place

    play(servers, scene)


def test_a_script_waits_while_its_slot_is_moved_key_by_key_and_never_runs_in_part(servers: Servers) -> None:
    """Half the keys are there and half are here. A claim that ran would take what it finds and leave the rest."""

    async def scene(store: Cluster) -> None:
        tag = TAGS[1]
        slot = partitions.slot(tag)
        to = other_than(servers, slot)
        await store.ask("SET", name(tag, "a"), "1")
        await store.ask("SET", name(tag, "b"), "2")
        owner = await asyncio.to_thread(servers.begin_move, slot, to)
        await asyncio.to_thread(servers.move_keys, slot, owner, to, 1)
        claim = scripts.claim(1, 1_000, "w", b"unreadable", 1_000)
        claiming = asyncio.create_task(store.run(scripts.CLAIM, claim, tag))
        assert await store.ask("GET", name(tag, "a")) == b"1"  # a read follows the key
        assert await store.ask("GET", name(tag, "b")) == b"2"
        await asyncio.sleep(0.2)
        assert not claiming.done()
        await asyncio.to_thread(servers.end_move, slot, owner, to)
        assert await claiming == []

    play(servers, scene)


def test_a_script_whose_own_keys_are_all_here_waits_too(servers: Servers) -> None:
    """It would write what is there already: the key that never exists is what keeps it from that."""

    async def scene(store: Cluster) -> None:
        tag = TAGS[3]
        slot, stream_id = partitions.slot(tag), f"{tag}-{'0' * 32}"
        new = scripts.NewStream(stream_id, "alice", "m", b"prompt", "continue", None, "")
        start = scripts.start_reserved(new, scripts.Limits(9), job=b"", job_ttl_ms=9_000, retention_ms=60_000)
        await store.run(scripts.START_RESERVED, start)
        claim = scripts.claim(1, 60_000, "w", b"unreadable", 60_000)
        assert len(scripts.claim_reply(await store.run(scripts.CLAIM, claim, tag))) == 1
        first = scripts.append(stream_id, 1, 1, [b"first"], end_state="", retention_ms=60_000)
        await store.run(scripts.APPEND_MORE, first)
        to = other_than(servers, slot)
        owner = await asyncio.to_thread(servers.begin_move, slot, to)
        owner.client.execute_command("MIGRATE", "127.0.0.1", to.port, keys.within(tag, keys.LEASES), 0, 5000)
        end = scripts.append(stream_id, 1, 2, [b"end"], end_state="completed", retention_ms=60_000)
        ending = asyncio.create_task(store.run(scripts.APPEND, end))
        await asyncio.sleep(0.2)
        assert not ending.done()
        assert await store.ask("HGET", keys.meta(stream_id), "state") == b"running"
        await asyncio.to_thread(servers.end_move, slot, owner, to)
        assert scripts.append_reply(await ending).outcome == "ok"
        assert not await store.ask("EXISTS", keys.within(tag, keys.LEASES))

    play(servers, scene)


def test_scripts_that_were_forgotten_are_told_again(servers: Servers) -> None:
    async def scene(store: Cluster) -> None:
        for _ in range(2):
            assert await store.run(scripts.DUE, scripts.due(1, 1_000), TAGS[0]) == [[], 0, 0]
            servers.forget_scripts()

    play(servers, scene)


def test_an_error_of_one_command_stands_in_its_place(servers: Servers) -> None:
    async def scene(store: Cluster) -> None:
        await store.ask("SET", name(TAGS[0]), "text")
        answers = await store.ask_many([("HGETALL", name(TAGS[0])), ("HGETALL", name(TAGS[1]))])
        assert isinstance(answers[0], RedisError)
        assert answers[1] == {}

    play(servers, scene)


def test_a_channel_follows_its_slot_and_its_readers_are_told(servers: Servers) -> None:
    async def scene(store: Cluster) -> None:
        tag = TAGS[2]
        channel, other = name(tag, "live").encode(), name(TAGS[3], "live").encode()
        heard: list[tuple[bytes, bytes]] = []
        again: asyncio.Queue[list[bytes]] = asyncio.Queue()

        def connected(_: str, channels: list[bytes] | None) -> None:
            if channels:
                again.put_nowait(channels)

        feeds = Feeds(store, lambda *said: heard.append(said), connected)
        running = asyncio.create_task(feeds.run())
        await feeds.subscribe(channel)
        await feeds.subscribe(other)
        before = feeds.mark(other)
        await store.publish(channel, b"one")
        for move in (servers.move_at_once, servers.move_key_by_key):
            await asyncio.to_thread(move, partitions.slot(tag), other_than(servers, partitions.slot(tag)))
            assert await asyncio.wait_for(again.get(), 10) == [channel]
            await store.publish(channel, b"two")
        await store.publish(other, b"three")
        while len(heard) < 4:
            await asyncio.sleep(0.01)
        assert heard == [(channel, b"one"), (channel, b"two"), (channel, b"two"), (other, b"three")]
        assert feeds.mark(other) == before  # nothing happened to it
        running.cancel()

    play(servers, scene)
