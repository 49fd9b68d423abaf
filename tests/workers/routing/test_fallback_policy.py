"""The fallback policy: who is asked next, when again, and when it is given up. No clock: the time is passed in."""

from __future__ import annotations

import pytest

from tokenrelay.protocol.models.catalogue import Choice, Dialect, Model
from tokenrelay.workers.providers.base import Blame, ProviderError
from tokenrelay.workers.routing.fallback_policy import BASE_S, CAP_S, FallbackPolicy, Limits

ROOMY = Limits(attempts=99, total_s=1_000.0)


def choice(name: str, dialect: Dialect = "anthropic", context: int | None = None) -> Choice:
    return Choice(Model(name, "P", dialect, f"up-{name}", context=context), f"up-{name}")


A, B, C = choice("a", context=100), choice("b", "gemini", context=50), choice("c", context=200)
THREE = (A, B, choice("c", "responses"))
LATER = ProviderError("x", retryable=True)


def nobody(_: Choice) -> bool:
    return False


def policy(*choices: Choice, limits: Limits = ROOMY) -> FallbackPolicy:
    made = FallbackPolicy(choices or (A, B, C), limits)
    made.begin(0.0)
    return made


def names(made: FallbackPolicy, jitter: float = 1.0) -> list[str]:
    """Whom it names in one story where all fail and every wait is slept through."""
    now = 0.0
    told: list[str] = []
    while (step := made.next(now, nobody)) is not None and len(told) < 40:
        if isinstance(step, float):
            now += step
            told.append(f"+{step:g}")
        else:
            told.append(step.model.id)
            made.failed(step, LATER, now, jitter)
    return told


def test_each_is_asked_once_before_anybody_waits() -> None:
    assert names(policy(*THREE))[:8] == ["a", "b", "c", f"+{BASE_S:g}", "a", "b", "c", "+1"]


def test_other_providers_come_before_other_models_of_one_that_failed() -> None:
    assert names(policy(A, choice("a2"), choice("a3"), B))[:4] == ["a", "b", "a2", "a3"]


def test_the_backoff_doubles_up_to_a_bound_and_is_all_jitter() -> None:
    waits = [float(step) for step in names(policy(A))[1::2]]
    assert waits[:6] == [0.5, 1, 2, 4, CAP_S, CAP_S]
    assert names(policy(A), jitter=0.0)[:4] == ["a"] * 4


def test_attempts_and_time_are_bounded() -> None:
    assert names(policy(limits=Limits(2, 1_000.0))) == ["a", "b"]
    assert names(policy(A, limits=Limits(99, 1.0))) == ["a", "+0.5", "a"]
    assert policy(limits=Limits(9, 10.0)).next(10.0, nobody) is None


def test_what_it_said_itself_is_waited_for_where_it_fits() -> None:
    made = policy(A, limits=Limits(9, 10.0))
    made.failed(A, ProviderError("x", retryable=True, retry_after_s=7.0), 1.0, 1.0)
    assert made.next(1.0, nobody) == 7.0
    assert made.next(8.0, nobody) is A
    made.failed(A, ProviderError("x", retryable=True, retry_after_s=7.0), 8.0, 1.0)
    assert made.next(8.0, nobody) is None


def test_who_rests_is_never_named() -> None:
    made = policy()
    assert made.next(0.0, lambda choice: choice is A) is B
    assert made.next(0.0, lambda _: True) is None


LEFT: list[tuple[Blame, list[str]]] = [
    ("provider", ["b", "c", "a"]),
    ("model", ["b", "c"]),
    ("key", ["b"]),
    ("context_window", ["c"]),
    ("request", []),
]


@pytest.mark.parametrize(("blame", "left"), LEFT)
def test_whose_fault_it_is_says_who_is_left(blame: Blame, left: list[str]) -> None:
    made = policy()
    made.failed(A, ProviderError("x", retryable=blame == "provider", blame=blame), 0.0, 0.0)
    told = []
    while isinstance(step := made.next(0.0, nobody), Choice):
        told.append(step.model.id)
        made.failed(step, ProviderError("x", retryable=False, blame="model"), 0.0, 0.0)
    assert told == left


def test_the_scripted_model_does_it_again_whenever_it_is_asked_so_it_is_not() -> None:
    assert names(policy(choice("s", "scripted"))) == ["s"]


def test_a_new_round_begins_with_who_answered_the_last_and_forgets_no_key() -> None:
    made = policy(limits=Limits(3, 1_000.0))
    made.failed(A, ProviderError("x", retryable=False, blame="model"), 0.0, 0.0)
    made.failed(B, LATER, 0.0, 1.0)
    made.begin(5.0, C)
    assert names(made)[:2] == ["c", "b"]
    assert repr(made) == "<FallbackPolicy 2 of 3 able | 0 attempts left>"
