"""What a task that tries again says of its failures, so that an outage does not fill the log. Knows no log."""

from __future__ import annotations


class Outage:
    """Failures in a row."""

    def __init__(self) -> None:
        self.failures = 0

    def __repr__(self) -> str:
        return f"<Outage {self.failures} failures>"

    def failed(self) -> bool:
        """Once more. True where that is to be logged."""
        self.failures += 1
        return is_told(self.failures)

    def over(self) -> None:
        """A try succeeded: the next failure is a first one."""
        self.failures = 0


def is_told(failures: int) -> bool:
    """Whether the failure that makes it so many in a row is logged: the 1st, 2nd, 4th, 8th…"""
    return failures > 0 and failures & (failures - 1) == 0
