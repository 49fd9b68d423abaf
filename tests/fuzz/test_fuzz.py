"""The cases at small size, always with the same seeds; `make fuzz` goes on with new ones."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.__main__ import CASES

SEEDS = range(60)


@pytest.mark.parametrize("name", CASES)
def test_what_holds_for_any_input(name: str) -> None:
    for seed in SEEDS:
        try:
            CASES[name](random.Random(seed))
        except Exception as error:
            raise AssertionError(f"{name}, seed {seed}: {error!r}") from error
