"""What one edge takes at once: by the numbers, without a socket or a clock."""

from __future__ import annotations

import contextlib
import resource

import pytest

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.wire.request import ChatRequest, bounded
from tokenrelay.server.access.limits import (
    CROWDED,
    Bucket,
    LargeBodies,
    Limits,
    connections,
    raise_if_crowded,
    too_many_messages,
)
from tokenrelay.server.settings import Settings


def settings(**given: object) -> Settings:
    return Settings.model_validate(given)


def test_a_bucket_gives_what_it_has_at_once_and_then_its_rate() -> None:
    bucket = Bucket(rate=10, burst=5, now=0)
    assert [bucket.take(0) for _ in range(5)] == [True] * 5
    assert not bucket.take(0)
    assert [bucket.take(0.3), bucket.take(0.3), bucket.take(0.3)] == [True, True, False]
    assert bucket.take(60)
    assert not bucket.take(60, 5)


def test_one_who_goes_on_asking_is_refused_for_longer_and_is_a_flood_at_last() -> None:
    bucket = Bucket(rate=10, burst=5, now=0)
    for _ in range(9):
        bucket.take(0)
    assert _told(bucket) == (False, 0.5)
    assert not bucket.take(0.3)  # four below nothing: three more do not help yet
    for _ in range(10):
        bucket.take(0.3)
    assert _told(bucket) == (True, 0.6)
    assert bucket.take(0.3 + 0.61)


def _told(bucket: Bucket) -> tuple[bool, float]:
    return bucket.is_flooded, round(bucket.wait_s, 6)


def test_a_rate_of_nothing_is_no_limit() -> None:
    bucket = Bucket(rate=0, burst=1, now=0)
    assert all(bucket.take(0, 100) for _ in range(10))
    assert not bucket.is_flooded


def test_a_refused_message_says_how_long() -> None:
    bucket = Bucket(rate=1, burst=10, now=0)
    bucket.take(0, 13)
    error = too_many_messages(bucket)
    assert (error.code, error.fields["retry_after"], error.fields["limit"]) == ("RATE_LIMIT", 4, 1)


def test_a_key_has_so_many_connections_and_another_key_its_own() -> None:
    limits = Limits(settings())
    first = limits.connection("alice", 2)
    with first, limits.connection("alice", 2), limits.connection("bob", 2):
        with pytest.raises(TokenrelayError) as refused, limits.connection("alice", 2):
            pass
        assert refused.value.code == "RATE_LIMIT"
        assert refused.value.fields.keys() == {"retry_after", "limit", "remaining", "reset"}
    with limits.connection("alice", 2), limits.connection("alice", 2):
        pass
    assert repr(limits) == "<Limits 0 connections of 0 keys | 0 bytes arriving>"


def test_what_is_arriving_is_bounded_and_let_go_of() -> None:
    limits = Limits(settings(max_body_bytes=1024))
    for _ in range(32):
        limits.buffer("alice", 1024)
    with pytest.raises(TokenrelayError) as refused:
        limits.buffer("alice", 1024)
    assert (refused.value.code, refused.value.retry_after_s) == ("OVERLOADED", 1)
    limits.release("alice", 1024)
    limits.buffer("alice", 1024)
    limits.release("alice", 32 * 1024)
    assert repr(limits) == "<Limits 0 connections of 0 keys | 0 bytes arriving>"


def test_however_much_others_send_a_newcomer_finds_room() -> None:
    limits = Limits(settings(max_body_bytes=1024))
    for number in range(5):
        with contextlib.suppress(TokenrelayError):
            while True:
                limits.buffer(f"greedy {number}", 1024)
    limits.buffer("alice", 1024)


def test_a_crowded_connection_is_told_so() -> None:
    raise_if_crowded({})
    raise_if_crowded({"state": {}})
    with pytest.raises(TokenrelayError) as refused:
        raise_if_crowded({"state": {CROWDED: True}})
    assert (refused.value.code, refused.value.retry_after_s) == ("OVERLOADED", 2)


def test_a_process_has_no_more_connections_than_the_system_gives_it_files() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        assert connections(settings(max_connections=10)) == 10
        hard = before[1]
        if hard != resource.RLIM_INFINITY:
            assert connections(settings(max_connections=hard * 2)) < hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_largest_output_is_refused_above_and_given_to_who_names_none() -> None:
    asked = ChatRequest(message="a", max_tokens=100)
    assert bounded(asked, 0) is asked
    assert bounded(asked, 100) is asked
    assert bounded(ChatRequest(message="a"), 100).max_tokens == 100
    assert bounded(ChatRequest(message="a"), 0).max_tokens is None
    with pytest.raises(TokenrelayError) as refused:
        bounded(asked, 99)
    assert (refused.value.code, refused.value.fields["field"]) == ("VALIDATION_ERROR", "max_tokens")
    assert refused.value.fields["issue"] == "expected at most 99, got 100"


def test_so_many_large_requests_are_read_at_once_and_half_of_them_for_one_key() -> None:
    large = LargeBodies(4)
    with large.place("alice") as first, large.place("alice") as second, large.place("alice") as third:
        for place in (first, second, first):
            place.take()
        with pytest.raises(TokenrelayError) as caught:
            third.take()
        assert caught.value.code == "OVERLOADED"
        with large.place("bob") as other, large.place("bob") as another, large.place("carol") as last:
            other.take()
            another.take()
            with pytest.raises(TokenrelayError):
                last.take()
        third.leave()
        first.leave()
        third.take()
    assert repr(large) == "<LargeBodies 0 of 4>"


def test_a_place_that_was_not_taken_is_none() -> None:
    large = LargeBodies(1)
    with large.place("alice"), large.place("bob") as other:
        other.take()
    with large.place("alice") as place:
        place.take()
