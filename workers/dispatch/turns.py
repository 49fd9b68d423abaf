"""Whose turn a start is, so that workers share what comes evenly. Pure.

Each start is published with a number that its edge counts. The workers that can take it stand in an order that all of
them know, and the number says which of them claims at once. The others look a moment later (`LATE_S`), for the one in
turn may be slow, full or gone: then whoever looks first takes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tokenrelay.protocol.store.worker_registry import Offer

LATE_S: Final = 0.025


class Turns:
    """As seen by one worker."""

    def __init__(self, worker_id: str) -> None:
        self._worker_id = worker_id
        self._order: tuple[str, ...] = ()  # empty: there is no order, everybody claims at once

    def __repr__(self) -> str:
        return f"<Turns {self._worker_id} of {len(self._order)}>"

    def learn(self, offers: Mapping[str, Offer]) -> None:
        """All that live, by worker. Where they answer different models there is no order: a number does not say which
        of them could."""
        taking = {worker: offer for worker, offer in offers.items() if offer.models != ()}
        alike = {offer.models for offer in taking.values()}
        able = (worker for worker, offer in taking.items() if offer.running < offer.max_jobs and not offer.is_late)
        self._order = tuple(sorted(able)) if len(alike) == 1 else ()

    def is_ours(self, number: bytes) -> bool:
        """`number` as it was published; what is no number is everybody's."""
        if not self._order or not number.isdigit() or len(number) > 16:
            return True
        return self._order[int(number) % len(self._order)] == self._worker_id
