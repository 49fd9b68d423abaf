"""What to do after a connection ended: wait how long, or give up. Pure: knows outcomes and counts, no clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from tokenrelay_client.errors import TokenrelayError, Unreachable, may_pass
from tokenrelay_client.transport import Dropped, Said

FIRST_RETRY_S: Final = 1.0
"""Before the server has said anything; it says 0.5 to 2.5 itself."""

MIN_RETRY_S: Final = 0.1
MAX_RETRY_S: Final = 15.0
MAX_REFUSALS: Final = 5
"""How often a request that is refused for the moment (429, a start at 503) is sent again."""


class Wait(NamedTuple):
    """Before the next try. `is_firm`: the server named the time, and nothing cuts it short but a stop."""

    seconds: float
    is_firm: bool = False


class Backoff:
    """The server's own `retry:` at first, which it draws anew for every connection; then longer, spread, capped."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random  # from 0 to 1
        self._retry_s = FIRST_RETRY_S * (0.5 + random())  # a crowd that found no server does not come back as one

    def advise(self, seconds: float) -> None:
        """The server's `retry:`."""
        self._retry_s = min(max(seconds, MIN_RETRY_S), 4 * MAX_RETRY_S)

    def delay_s(self, failures: int) -> float:
        """`failures` before this one, in a row."""
        most_s = max(self._retry_s, min(MAX_RETRY_S, self._retry_s * 2.0 ** min(failures, 16)))
        return self._retry_s + self._random() * (most_s - self._retry_s)


class RetryPolicy:
    """Counts what went wrong in a row, and says when it is enough."""

    def __init__(self, backoff: Backoff, patience_s: float, first_patience_s: float, hint: str = "") -> None:
        self._backoff = backoff
        self._patience_s = patience_s  # in waits added up
        self._first_patience_s = first_patience_s  # the same, of a server that has never answered; tries count too
        self._hint = hint  # what to look at when no server has ever answered
        self._has_heard = False
        self._failures = self._refusals = 0
        self._waited_s = 0.0

    @property
    def failures(self) -> int:
        """In a row, without an event between them."""
        return self._failures

    def heard(self) -> None:
        """A server answered."""
        if not self._has_heard:
            self._has_heard, self._waited_s = True, 0.0

    def reset(self) -> None:
        """An event came: all is well."""
        self._failures = self._refusals = 0
        self._waited_s = 0.0

    def after(
        self,
        outcome: Dropped | Said,
        *,
        has_id: bool,
        is_cursor_ours: bool,
        has_other: bool = False,
        elapsed_s: float = 0.0,
    ) -> Wait:
        """`has_other`: the next try goes over the other transport. `elapsed_s`: since the stream was made. Raises
        Refused, Unreachable: there is no point any more."""
        if isinstance(outcome, Said) and not (outcome.by_socket and has_other):
            wait = self._after_refusal(outcome.error, has_id, is_cursor_ours)
        else:
            wait = self._after_drop(outcome, has_other)
        self._failures += 1
        if wait.seconds == 0:  # the other transport is tried in any case
            return wait
        if self._has_heard:
            is_enough = self._waited_s + wait.seconds > self._patience_s
        else:
            left_s = self._first_patience_s - max(self._waited_s, elapsed_s)
            is_enough = left_s <= 0
            wait = wait._replace(seconds=min(wait.seconds, max(left_s, 0.0)))
        if is_enough:
            raise outcome.error if isinstance(outcome, Said) else self._gone(outcome.why, elapsed_s)
        self._waited_s += wait.seconds
        return wait

    def _gone(self, why: str, elapsed_s: float) -> Unreachable:
        if self._has_heard:
            return Unreachable(f"no answer for {self._patience_s:.0f} s: {why}")
        return Unreachable(f"no answer for {elapsed_s:.0f} s: {why}{self._hint}")

    def _after_refusal(self, error: TokenrelayError, has_id: bool, is_cursor_ours: bool) -> Wait:
        # A stream that is there goes on without us: nothing is lost by asking for it until the time is over.
        if not has_id or error.status < 500:
            self._refusals += 1
        if not may_pass(error, is_cursor_ours) or self._refusals > MAX_REFUSALS:
            raise error
        return self._later() if error.retry_after is None else Wait(error.retry_after, is_firm=True)

    def _after_drop(self, outcome: Dropped | Said, has_other: bool) -> Wait:
        if isinstance(outcome, Dropped) and outcome.after_s is not None:
            return Wait(outcome.after_s, is_firm=True)
        was_open = isinstance(outcome, Dropped) and outcome.was_open
        # A transport that a proxy forbids says nothing of the other one.
        return Wait(0.0) if has_other and not was_open and self._failures == 0 else self._later()

    def _later(self) -> Wait:
        return Wait(self._backoff.delay_s(self._failures))
