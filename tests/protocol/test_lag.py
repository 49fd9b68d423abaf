"""Late for a while is overloaded; late once, or a bound of 0, is not."""

from __future__ import annotations

from tokenrelay.protocol.runtime.lag import LASTING_S, Lag


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def seen(lag: Lag, clock: Clock, *late: float) -> list[bool]:
    """What it says after each look, half a second and the lateness apart."""
    said = []
    for each in late:
        clock.now += 0.5 + each
        lag.saw(each)
        said.append(lag.is_lasting)
    return said


def test_only_what_lasts_counts() -> None:
    clock = Clock()
    lag = Lag(0.2, clock)
    assert seen(lag, clock, 0.3, 0.3, 0.3, 0.3) == [False, False, False, True]
    assert seen(lag, clock, 0.1, 0.3, 0.3, 0.1, 0.3) == [False] * 5
    assert lag.seconds == 0.3


def test_a_process_that_stood_still_goes_on() -> None:
    clock = Clock()
    assert seen(Lag(0.2, clock), clock, LASTING_S + 1, 0.0) == [False, False]


def test_zero_is_off() -> None:
    clock = Clock()
    assert seen(Lag(0, clock), clock, 5.0, 5.0) == [False, False]
