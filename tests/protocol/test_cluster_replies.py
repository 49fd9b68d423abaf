"""A cluster's own words: who has a slot, and what an error reply says of it."""

from __future__ import annotations

from typing import Any

import hiredis
import pytest
from redis.exceptions import BusyLoadingError, ReadOnlyError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from tokenrelay.protocol.runtime.stores import slot_map
from tokenrelay.protocol.runtime.stores.replies import LATER_S, SOON_S, Redirect, redirect

ROWS = [
    [0, 8191, [b"10.0.0.1", 7000, b"id"], [b"10.0.0.3", 7002, b"id"]],
    [8192, 16382, [b"", 7001, b"id", []]],
]


def test_the_owner_of_each_slot_is_read() -> None:
    found = slot_map.parse(ROWS, "10.0.0.9:1")
    assert (found.owners[0], found.owners[8191], found.owners[8192]) == ("10.0.0.1:7000",) * 2 + ("10.0.0.9:7001",)
    assert found.owners[16383] == ""  # nobody has it
    assert (found.primaries, found.replicas) == (("10.0.0.1:7000", "10.0.0.9:7001"), ("10.0.0.3:7002",))


def test_addresses_of_ipv6_keep_their_brackets() -> None:
    found = slot_map.parse([[0, 16383, [b"::1", 7000, b"id"]]], "x:1")
    assert found.primaries == ("[::1]:7000",)
    assert slot_map.host_and_port("[::1]:7000") == ("::1", 7000)


@pytest.mark.parametrize("rows", [[1], [[0, 5]], [[0, 5, None]], [[0, 99_999, [b"h", 1]]], 7])
def test_what_is_no_map_is_refused(rows: Any) -> None:
    with pytest.raises(ValueError, match=r"slot|SLOTS"):
        slot_map.parse(rows, "h:1")


@pytest.mark.parametrize("kind", [ResponseError, hiredis.ReplyError])
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("MOVED 3999 127.0.0.1:6381", Redirect(0.0, (3999, "127.0.0.1:6381"))),
        ("MOVED 1 :6381", Redirect(0.0, (1, ":6381"))),
        ("ASK 3999 127.0.0.1:6381", Redirect(SOON_S, for_now="127.0.0.1:6381")),
        ("TRYAGAIN Multiple keys request during rehashing of slot", Redirect(SOON_S)),
        ("CLUSTERDOWN Hash slot not served", Redirect(LATER_S, is_down=True)),
        ("MASTERDOWN Link with MASTER is down", Redirect(LATER_S, is_down=True)),
        ("OOM command not allowed when used memory > 'maxmemory'.", None),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", None),
    ],
)
def test_each_word_is_told_apart(kind: type[Exception], text: str, told: Redirect | None) -> None:
    assert redirect(kind(text)) == told


def test_states_that_redis_py_makes_classes_of() -> None:
    later = Redirect(LATER_S, is_down=True)
    assert redirect(ReadOnlyError("You can't write against a read only replica.")) == later
    assert redirect(BusyLoadingError("Redis is loading the dataset in memory")) == later
    assert redirect(RedisConnectionError("Connection refused")) is None
