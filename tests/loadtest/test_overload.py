"""The verdict of an overload: only where there was one, and only against a half load that was none."""

from __future__ import annotations

import pytest

from tokenrelay.loadtest.overload import Seen, as_text, verdict

HALF = Seen("half", 300, 0, 5.0, 20.0)


@pytest.mark.parametrize(
    ("half", "full", "code", "words"),
    [
        (HALF, Seen("full", 400, 200, 8.0, 39.0), 0, "1.9 x that at half the load: kept"),
        (HALF, Seen("full", 400, 200, 8.0, 41.0), 1, "2.0 x that at half the load: NOT kept, 2 x is allowed"),
        (HALF, Seen("full", 600, 0, 8.0, 20.0), 2, "nobody was refused"),
        (HALF._replace(refused=15), Seen("full", 400, 200, 8.0, 20.0), 2, "too much already (15 refused)"),
    ],
)
def test_the_verdict(half: Seen, full: Seen, code: int, words: str) -> None:
    said = verdict(half, full)
    assert said[0] == code
    assert words in said[1]


def test_the_table_has_a_line_for_each_stage() -> None:
    assert as_text([HALF]).splitlines()[1].split() == ["half", "300", "0", "5", "ms", "20", "ms"]
