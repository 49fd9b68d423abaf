"""Whose turn a start is."""

from __future__ import annotations

import msgspec
import pytest

from tokenrelay.protocol.store.worker_registry import Offer
from tokenrelay.workers.dispatch.turns import Turns

OFFER = Offer(until_ms=1, dialects=("d",), lacks={}, running=0, max_jobs=10, models=("a", "b"))


def offers(**changes: dict[str, object]) -> dict[str, Offer]:
    """Of the workers w0 to w3, some of them otherwise."""
    return {name: msgspec.structs.replace(OFFER, **changes.get(name, {})) for name in ("w0", "w1", "w2", "w3")}


def takers(number: bytes, known: dict[str, Offer]) -> list[str]:
    found = []
    for name in known:
        turns = Turns(name)
        turns.learn(known)
        if turns.is_ours(number):
            found.append(name)
    return found


def test_each_start_is_one_workers_and_all_have_their_turn() -> None:
    known = offers()
    assert [takers(b"%d" % number, known) for number in range(1, 6)] == [["w1"], ["w2"], ["w3"], ["w0"], ["w1"]]


@pytest.mark.parametrize("change", [{"running": 10}, {"is_late": True}, {"models": ()}])
def test_one_that_takes_nothing_now_has_no_turn(change: dict[str, object]) -> None:
    known = offers(w1=change)
    assert {name for number in range(6) for name in takers(b"%d" % number, known)} == {"w0", "w2", "w3"}


def test_where_workers_differ_or_none_is_known_all_claim() -> None:
    assert len(takers(b"1", offers(w1={"models": ("a",)}))) == 4
    assert Turns("w0").is_ours(b"1")


@pytest.mark.parametrize("number", [b"", b"x", b"-1", b"1.5", b"9" * 40])
def test_what_is_no_number_is_everybodys(number: bytes) -> None:
    assert len(takers(number, offers())) == 4
