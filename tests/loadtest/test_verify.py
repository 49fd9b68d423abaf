"""The judge of the load test: every way in which a text can be wrong is seen, and a right one is not."""

from __future__ import annotations

from typing import Any

import pytest

from tokenrelay.loadtest.verify import Verifier

MODEL = "scripted?tokens=4"
END = (9, {"token": "", "done": True, "finish_reason": "stop"})


def token(event_id: int, text: str) -> tuple[int, dict[str, Any]]:
    return event_id, {"token": text, "done": False}


def judged(*events: tuple[int | None, dict[str, Any]], model: str = MODEL) -> Verifier:
    verifier = Verifier(model)
    for event_id, data in events:
        verifier.take(event_id, data)
    return verifier


RIGHT = [
    [token(2, "w0 "), token(3, "w1 "), token(4, "w2 "), token(5, "w3 "), END],
    [token(3, "w0 w1 "), token(5, "w2 w3 "), END],
    [(None, {"token": "", "done": False}), (1, {"token": "", "done": False}), token(5, "w0 w1 w2 w3 "), END],
]


@pytest.mark.parametrize("events", RIGHT)
def test_a_right_text_is_whole(events: list[tuple[int | None, dict[str, Any]]]) -> None:
    verifier = judged(*events)
    assert verifier.is_whole
    assert (verifier.lost, verifier.repeated, verifier.faults) == (0, 0, [])


@pytest.mark.parametrize(
    ("events", "lost", "repeated"),
    [
        ([token(2, "w0 "), token(4, "w2 w3 "), END], 1, 0),
        ([token(3, "w0 w1 "), END], 2, 0),
        ([END], 4, 0),
        ([token(3, "w0 w1 "), token(5, "w1 w2 w3 "), END], 0, 1),
        ([token(2, "w0 "), token(3, "w0 "), token(6, "w1 w2 w3 "), END], 0, 1),
        ([token(3, "w1 w0 "), token(5, "w2 w3 "), END], 1, 1),
    ],
)
def test_lost_and_repeated_tokens_are_counted(events: list[Any], lost: int, repeated: int) -> None:
    verifier = judged(*events)
    assert (verifier.lost, verifier.repeated) == (lost, repeated)
    assert not verifier.is_whole


@pytest.mark.parametrize(
    ("events", "fault"),
    [
        ([token(2, "w0")], "did not write"),
        ([token(2, "x0 ")], "did not write"),
        ([token(2, "w00 ")], "did not write"),
        ([token(2, "w0  ")], "did not write"),
        ([token(2, "w0 "), token(2, "w1 ")], "not above"),
        ([(2, {"done": False})], "without a token"),
        ([token(5, "w0 w1 w2 w3 "), END, token(10, "w4 ")], "after the end"),
        ([token(5, "w0 w1 w2 w3 w4 "), END], "more text"),
        ([(None, {"token": "", "done": True, "error_code": "WORKER_LOST"})], "WORKER_LOST"),
        ([(None, {"token": "", "done": True})], "without an id"),
    ],
)
def test_what_breaks_the_rules_is_a_fault(events: list[Any], fault: str) -> None:
    assert any(fault in sentence for sentence in judged(*events).faults)


def test_giving_up_loses_what_has_not_come() -> None:
    verifier = judged(token(2, "w0 "))
    verifier.give_up("late")
    assert (verifier.lost, verifier.faults) == (3, ["late"])


def test_a_text_that_is_not_foretold_is_compared_with_the_stored_one() -> None:
    verifier = judged(token(2, "Hel"), token(3, "lo"), END, model="local")
    verifier.compare("Hello")
    assert verifier.is_whole
    verifier.compare("Hallo")
    assert not verifier.is_whole
