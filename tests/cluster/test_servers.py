"""The cluster that other tests stand on does what they ask of it."""

from __future__ import annotations

import binascii
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.cluster.servers import SLOTS, Server, Servers, can_move_at_once
from tests.needs import require

SLOT = binascii.crc_hqx(b"tag", 0) % SLOTS
NAMES = [f"{{tag}}:{number}" for number in range(450)]  # more than are moved at once


@pytest.fixture(scope="module", params=["valkey", "redis"])
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    found = shutil.which("redis-server") if request.param == "redis" else None
    if request.param == "redis":
        require(found, "redis-server on PATH")
    with Servers(3, replicas=1, binary=Path(found) if found else None, node_timeout_ms=1_000) as servers:
        yield servers


@pytest.fixture(autouse=True)
def _whole(servers: Servers) -> None:
    for server in servers.all:
        if not server.is_alive:
            server.start()
        server.go_on()
    servers.wait_until_whole()
    servers.flush()


def fill(owner: Server) -> None:
    owner.client.mset(dict.fromkeys(NAMES, "kept"))


def test_each_of_three_has_a_third_and_a_replica(servers: Servers) -> None:
    assert len(servers.primaries()) == 3
    assert sorted(servers.shares().values()) == [5461, 5461, 5462]
    assert len({servers.replica_of(primary).port for primary in servers.primaries()}) == 3
    assert servers.owner_of(SLOT).client.set(NAMES[0], "1")
    with pytest.raises(redis.ResponseError, match="MOVED"):
        servers.other_primary(servers.owner_of(SLOT)).client.set(NAMES[0], "1")
    assert servers.url.count("127.0.0.1:") == 6


def test_a_slot_moves_at_once(servers: Servers) -> None:
    owner = servers.owner_of(SLOT)
    if not can_move_at_once(owner):
        pytest.skip("this server cannot: Valkey 9 can")
    other = servers.other_primary(owner)
    fill(owner)
    servers.move_at_once(SLOT, other)
    assert servers.owner_of(SLOT) is other
    assert other.client.exists(*NAMES) == len(NAMES)
    servers.move_at_once(SLOT, owner)
    assert owner.client.exists(*NAMES) == len(NAMES)


def test_a_slot_moves_key_by_key_with_everything_that_was_written_meanwhile(servers: Servers) -> None:
    owner = servers.owner_of(SLOT)
    other = servers.other_primary(owner)
    fill(owner)
    assert servers.begin_move(SLOT, other) is owner
    assert servers.move_keys(SLOT, owner, other, most=100) == 100
    with pytest.raises(redis.ResponseError, match="ASK"):
        owner.client.set("{tag}:new", "1")
    with pytest.raises(redis.ResponseError, match="TRYAGAIN"):
        owner.client.mget(*NAMES)
    servers.end_move(SLOT, owner, other)
    assert servers.owner_of(SLOT) is other
    assert other.client.exists(*NAMES) == len(NAMES)
    servers.move_key_by_key(SLOT, owner)
    assert owner.client.exists(*NAMES) == len(NAMES)


def test_a_replica_takes_over_in_agreement(servers: Servers) -> None:
    owner = servers.owner_of(SLOT)
    fill(owner)
    replica = servers.fail_over(owner)
    assert servers.owner_of(SLOT) is replica
    assert replica.client.exists(*NAMES) == len(NAMES)


def test_a_replica_takes_over_from_one_that_was_killed(servers: Servers) -> None:
    owner = servers.owner_of(SLOT)
    replica = servers.replica_of(owner)
    fill(owner)
    assert owner.client.wait(1, 5_000) == 1
    owner.kill()
    servers.wait_until_replaced(owner)
    assert servers.owner_of(SLOT) is replica
    assert replica.client.exists(*NAMES) == len(NAMES)
    owner.start()
    servers.wait_until_whole()
    assert servers.replica_of(replica) is owner


def test_a_tail_can_be_lost(servers: Servers) -> None:
    owner = servers.owner_of(SLOT)
    replica = servers.replica_of(owner)
    owner.client.set(NAMES[0], "both")
    assert owner.client.wait(1, 5_000) == 1
    with servers.tail_unreplicated(owner):
        owner.client.set(NAMES[0], "lost")
        owner.kill()
    servers.wait_until_replaced(owner)
    assert replica.client.get(NAMES[0]) == b"both"


def test_one_that_was_paused_comes_back_as_a_replica(servers: Servers) -> None:
    owner = servers.owner_of(SLOT)
    owner.pause()
    servers.wait_until_replaced(owner)
    owner.go_on()
    servers.wait_until_whole()
    assert not owner.is_primary()


def test_scripts_are_forgotten_everywhere(servers: Servers) -> None:
    shas = {server.client.script_load("return 1") for server in servers.all}
    servers.forget_scripts()
    for server in servers.all:
        assert server.client.script_exists(*shas) == [False]
