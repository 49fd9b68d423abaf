"""Partitions: their slots are spread evenly, a larger number of them contains a smaller one, and ids say theirs."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tokenrelay.protocol.store import keys, partitions

HEX = "0123456789abcdef" * 2


def test_a_slot_is_that_of_the_clusters_own_reckoning() -> None:
    """Values that `CLUSTER KEYSLOT` gives (https://redis.io/docs/latest/commands/cluster-keyslot/)."""
    assert (partitions.slot("somekey"), partitions.slot("foo"), partitions.slot("123456789")) == (11058, 12182, 12739)


@pytest.mark.parametrize("number", [2**power for power in range(11)])
def test_tags_lie_as_far_apart_as_they_can(number: int) -> None:
    slots = sorted(partitions.slot(tag) for tag in partitions.tags(number))
    assert slots == list(range(0, partitions.SLOTS, partitions.SLOTS // number))


def test_the_tags_of_few_are_the_first_of_many() -> None:
    most = partitions.tags(1024)
    assert len(set(most)) == 1024
    assert all(partitions.tags(2**power) == most[: 2**power] for power in range(11))
    assert all(re.fullmatch("[0-9A-Za-z]{3}", tag) for tag in most)


@pytest.mark.parametrize("servers", [3, 5, 7, 16, 31, 100])
def test_each_server_has_as_many_as_any_other_or_one_more(servers: int) -> None:
    counts = Counter(partitions.slot(tag) * servers // partitions.SLOTS for tag in partitions.tags(256))
    assert len(counts) == servers
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("number", [-1, 0, 3, 255, 2048])
def test_no_other_number(number: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        partitions.tags(number)


def test_an_id_says_its_partition() -> None:
    tag = partitions.tags(2)[1]
    assert partitions.tag_of(f"{tag}-{HEX}") == tag
    assert keys.is_stream_id(f"{tag}-{HEX}")


@pytest.mark.parametrize("stream_id", [HEX, "stream-1", f"zzz-{HEX}", f"{partitions.tags(1)[0]}-short", f"-{HEX}"])
def test_any_other_id_has_the_names_of_one_server(stream_id: str) -> None:
    assert partitions.tag_of(stream_id) == partitions.ONE_SERVER
    assert keys.meta(stream_id) == f"tr:{{{stream_id}}}:meta"


def test_what_a_stream_has_lies_in_its_partition_and_what_an_owner_has_with_the_owner() -> None:
    tag = partitions.tags(1)[0]
    stream_id, names = f"{tag}-{HEX}", keys.CLUSTER
    assert [keys.log(stream_id), keys.meta(stream_id), keys.live(stream_id), keys.part(stream_id, 2)] == [
        f"tr:{{{tag}}}:{stream_id}:{what}" for what in ("log", "meta", "live", "part:2")
    ]
    assert keys.within(tag, keys.WAITING) == f"tr:{{{tag}}}:waiting"
    assert keys.within("", keys.WAITING) == keys.WAITING
    made = [names.owner("a"), names.active("a"), names.rate("a"), names.idempotency("a", "k"), names.chat("a", "c")]
    assert {partitions.tag_in(name) for name in made} == {f"o:{keys.digest('a')}"}
    assert len(set(made)) == len(made)
    assert names.for_all(keys.HEALTH) == "tr:{g}:health"
    assert keys.ONE_SERVER.owner("a") == keys.owner("a")
