"""What an answer used and what it cost: rounds as their providers counted them, the one under way as we estimate it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tokenrelay.protocol import events
from tokenrelay.protocol.models.catalogue import Choice
from tokenrelay.workers.conversation import Message, Usage, text_of
from tokenrelay.workers.metrics import Metrics
from tokenrelay.workers.routing.features import estimate_tokens

NOTHING = Usage(0, 0)

LONG_PIECE: Final = 24
"""Characters from which a piece is more than one token."""


class UsageMeter:
    """One generation's. `written` is what the round under way has written, in tokens counted by us."""

    def __init__(self, metrics: Metrics) -> None:
        self.usage = NOTHING
        self.cost_usd: float | None = None  # None: nothing was used, or something of what was used has no price
        self.written = 0
        self._metrics = metrics
        self._is_counted = False  # see `counted`
        self._open: tuple[Choice, Sequence[Message]] | None = None  # the call that has begun to work; None: none has

    def __repr__(self) -> str:
        return f"<UsageMeter {self.usage.input_tokens} in, {self.usage.output_tokens} out, {self.cost_usd} USD>"

    def works(self, choice: Choice, messages: Sequence[Message]) -> None:
        """This model is at work on this. What another wrote before it failed nobody counts."""
        if self._open is None or self._open[0] is not choice:
            self.written = 0
        self._open = choice, messages

    def wrote(self, text: str) -> None:
        """A piece came: a token, or an estimate of how many; some providers tell a paragraph at a time."""
        if text:
            self.written += 1 if len(text) < LONG_PIECE else estimate_tokens(text)

    def finished(self, choice: Choice, usage: Usage) -> None:
        """A round is over."""
        self._open, self.written = None, 0
        self._add(choice, usage)

    def counted(self, choice: Choice, usage: Usage, dollars: float | None) -> None:
        """In the middle of a round, by who counts for himself: nothing of that round is estimated any more."""
        self._is_counted = True
        self._add(choice, usage, dollars)

    def close(self) -> None:
        """The answer ends in the middle of a round."""
        if self._is_counted:
            self._open = None
        elif self._open is not None:
            choice, messages = self._open
            read = sum(estimate_tokens(text_of(message.content)) for message in messages)
            self.finished(choice, Usage(read, self.written))

    def fields(self) -> events.Usage | None:
        """As the last event tells it; None where nobody was asked."""
        if self.usage is NOTHING:
            return None
        used = self.usage
        return events.usage(
            used.input_tokens,
            used.output_tokens,
            cached_input_tokens=used.cached_input_tokens,
            cache_write_tokens=used.cache_write_tokens,
            reasoning_tokens=used.reasoning_tokens,
        )

    def _add(self, choice: Choice, usage: Usage, dollars: float | None = None) -> None:
        cost = cost_usd(choice, usage) if dollars is None else dollars
        if self.usage is NOTHING:
            self.usage, self.cost_usd = usage, cost
        else:
            self.usage = _sum(self.usage, usage)
            self.cost_usd = None if cost is None or self.cost_usd is None else self.cost_usd + cost
        self._metrics.used(choice, usage, cost)


def cost_usd(choice: Choice, usage: Usage) -> float | None:
    """By the prices of the row; None where it has none, or where another upstream model than its own answered."""
    price = choice.model.price
    if choice.upstream != choice.model.upstream or not (price.input or price.output):
        return None
    cached, written = usage.cached_input_tokens or 0, usage.cache_write_tokens or 0
    rest = max(0, usage.input_tokens - cached - written)
    of_cached = price.input if price.cached_input is None else price.cached_input
    of_written = price.input if price.cache_write is None else price.cache_write
    dollars = rest * price.input + cached * of_cached + written * of_written + usage.output_tokens * price.output
    return round(dollars / 1_000_000, 9)


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(
        one.input_tokens + other.input_tokens,
        one.output_tokens + other.output_tokens,
        _known(one.cached_input_tokens, other.cached_input_tokens),
        _known(one.cache_write_tokens, other.cache_write_tokens),
        _known(one.reasoning_tokens, other.reasoning_tokens),
    )


def _known(one: int | None, other: int | None) -> int | None:
    return None if one is None and other is None else (one or 0) + (other or 0)
