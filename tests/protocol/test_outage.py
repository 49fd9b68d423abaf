"""An outage is logged at its beginning, and ever less while it lasts."""

from __future__ import annotations

from tokenrelay.protocol.runtime.outage import Outage


def test_a_long_outage_is_told_at_each_doubling_and_the_next_one_from_its_beginning() -> None:
    outage = Outage()
    assert [number for number in range(1, 1_001) if outage.failed()] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    outage.over()
    assert [number for number in range(1, 10) if outage.failed()] == [1, 2, 4, 8]
