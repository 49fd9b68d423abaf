"""Names in Redis: none of them can be made by a client, and arq's are arq's."""

from __future__ import annotations

import re

import pytest
from arq import constants
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.cases import STREAM, pure
from tokenrelay.protocol.store import keys


@pytest.mark.parametrize("text", [STREAM, "a" * 8, "a" * 64, "-_-_-_-_", "ABCdef12"])
def test_it_can_be_a_streams_id(text: str) -> None:
    assert keys.is_stream_id(text)


WRONG_LENGTH = ["", "a" * 7, "a" * 65, "a" * 8 + "\n"]
WRONG_CHARACTER = ["a b c d", "aaaa{aaaa", "aaaa}aaaa", "aaaa:aaaa", "aaaa*aaaa", "ä" * 8, "٣" * 8, "aaaaaaa\0"]


@pytest.mark.parametrize("text", [*WRONG_LENGTH, *WRONG_CHARACTER])
def test_it_cannot_be_a_streams_id(text: str) -> None:
    assert not keys.is_stream_id(text)


@given(st.text(max_size=30), st.text(max_size=30))
@pure
def test_no_text_of_a_client_reaches_a_name(owner: str, key: str) -> None:
    for name in (keys.owner(owner), keys.active(owner), keys.rate(owner), keys.idempotency(owner, key)):
        assert re.fullmatch(r"tr:(owner|active|rate|idem):[0-9a-f]{32}", name)


def test_half_a_surrogate_pair_is_a_name_too() -> None:
    assert keys.owner("\ud800") != keys.owner("\udfff")


def test_owners_and_their_keys_do_not_meet() -> None:
    """Both are printable, so that the NUL between them is in neither."""
    pairs = [("a", "b"), ("ab", ""), ("", "ab"), ("b", "a"), ("a", "bb"), ("ab", "b"), ("a b", "c"), ("a", "b c")]
    assert len({keys.idempotency(owner, key) for owner, key in pairs}) == len(pairs)
    assert keys.idempotency("a", "b") == keys.idempotency("a", "b")


def test_what_belongs_to_one_stream_has_its_id_in_braces() -> None:
    names = [keys.log(STREAM), keys.meta(STREAM), keys.live(STREAM)]
    assert names == [f"tr:{{{STREAM}}}:{part}" for part in ("log", "meta", "live")]


def test_no_two_names_are_the_same() -> None:
    fixed = [keys.WAITING, keys.LEASES, keys.WORKERS, keys.WAKE, keys.CANCEL, keys.HEALTH]
    of_stream = [keys.log(STREAM), keys.meta(STREAM), keys.live(STREAM)]
    of_owner = [keys.owner("a"), keys.active("a"), keys.rate("a"), keys.idempotency("a", "b"), keys.probe("e")]
    of_owner += [keys.trial("a"), keys.secret(1), keys.secret(2)]
    made = [*fixed, *of_stream, *of_owner]
    assert len(set(made)) == len(made)
    assert all(name.startswith(keys.STREAM) for name in made)


def test_arqs_names_are_arqs() -> None:
    assert constants.job_key_prefix == keys.ARQ_JOB
