"""The choice itself: one who answers, who would be next, and what the `started` event says of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec

from tokenrelay.protocol.models.catalogue import Catalogue, Choice
from tokenrelay.protocol.models.circuit import Vitals
from tokenrelay.protocol.wire.request import ChatRequest, accepting
from tokenrelay.workers.routing.rank import Ranking, able, nothing_left, rank

MAX_ROUTING_BYTES: Final = 1_000
MAX_CONSIDERED: Final = 8
MAX_REASONS: Final = 6


class Route(msgspec.Struct, frozen=True):
    """`label` is the `model` of every event while `choice` answers; `routing` says why, when the caller left the choice
    to us; `others` may answer in its place, best first."""

    choice: Choice
    label: str
    routing: dict[str, Any] | None
    others: tuple[Choice, ...] = ()

    def label_of(self, choice: Choice) -> str:
        """The `model` of the events that this one writes: what the caller wrote, or the id of who took over."""
        return self.label if choice is self.choice else choice.model.id


def route(
    request: ChatRequest,
    catalogue: Catalogue,
    dialects: Collection[str],
    health: Mapping[str, Vitals] | None = None,
) -> Route:
    """Choose among what can be spoken here.

    Raises TokenrelayError VALIDATION_ERROR (no such name, a preference that cannot be, a part that nobody accepts),
    SERVICE_UNAVAILABLE (nobody can be asked).
    """
    choices = accepting(request, catalogue.choices(request.model, request.provider))
    available = [choice for choice in choices if choice.model.source in dialects]
    if not available:
        raise nothing_left(by_avoid=False)
    if request.model is not None and not catalogue.is_auto(request.model):
        fallbacks = catalogue.fallbacks(request.model, request.provider)
        others = [other for other in fallbacks if other.model.source in dialects]
        return Route(available[0], request.model, None, tuple(able(request, catalogue, others) if others else ()))
    ranking = rank(request, catalogue, available, health)
    if not ranking.ranked:
        raise nothing_left(by_avoid=True)
    best, *others = (item.choice for item in ranking.ranked)
    return Route(best, best.model.id, routing_of(ranking), tuple(others))


def routing_of(ranking: Ranking) -> dict[str, Any]:
    """The `routing` of the `started` event; below 1 KiB, so that the first thing a client hears stays small."""
    best = ranking.ranked[0]
    said: dict[str, Any] = {
        "chosen": best.choice.model.id,
        "strategy": ranking.strategy,
        "kind": ranking.features.kind,
        "reasons": _reasons(ranking)[:MAX_REASONS],
        "considered": [
            {"model": item.choice.model.id, "score": item.score} for item in ranking.ranked[:MAX_CONSIDERED]
        ],
    }
    while len(msgspec.json.encode(said)) > MAX_ROUTING_BYTES and (said["considered"] or said["reasons"]):
        (said["considered"] or said["reasons"]).pop()
    return said


def _reasons(ranking: Ranking) -> list[str]:
    asked = ranking.features
    best, *others = ranking.ranked
    reasons = [f"begins with the hint {asked.hint}"] if asked.hint else []
    if asked.hint is None or asked.strategy is not None:
        reasons.append(f"asks for {asked.kind}")
    if not others:
        reasons.append("the only one available")
    reasons += [*best.reasons, *(f"chosen though it {lack}" for lack in best.lacks)]
    reasons += [f"{item.choice.model.id} {item.lacks[0]}" for item in others if item.lacks and item.score > best.score]
    return reasons
