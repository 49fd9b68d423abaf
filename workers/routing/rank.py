"""Who is best for what is asked: from (request, catalogue, health) to a ranked list with reasons. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import msgspec

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.models import preferences
from tokenrelay.protocol.models.catalogue import Catalogue, Choice, Model
from tokenrelay.protocol.models.circuit import Vitals
from tokenrelay.protocol.models.preferences import Preferences
from tokenrelay.protocol.models.routing_rules import RoutingRules, Strategy, Weights
from tokenrelay.protocol.wire.request import ChatRequest, kinds_of
from tokenrelay.workers.routing import features
from tokenrelay.workers.routing.features import Features

ANSWER_TOKENS: Final = 512
"""Room left for an answer whose length nobody bounded."""

_STEP: Final = 0.1
"""What a strength loses with its place in the list."""

_UNKNOWN: Final = Vitals()


class Ranked(msgspec.Struct, frozen=True):
    """One candidate. `score` is the sum of what speaks for it by the weights, 1 where everything does (a model the
    caller prefers may be above). `lacks`: why it stands behind those that lack nothing, whatever its score."""

    choice: Choice
    score: float
    reasons: tuple[str, ...]
    lacks: tuple[str, ...] = ()


class Ranking(msgspec.Struct, frozen=True):
    """`ranked` is best first and holds what can be asked at all."""

    features: Features
    strategy: Strategy
    ranked: tuple[Ranked, ...]


class _Question(msgspec.Struct, frozen=True):
    """What every candidate is held against."""

    features: Features
    weights: Weights
    rules: RoutingRules
    needs: int  # tokens, read and written
    dearest: float
    preferred: Collection[str]


def rank(
    request: ChatRequest,
    catalogue: Catalogue,
    choices: Sequence[Choice],
    health: Mapping[str, Vitals] | None = None,
) -> Ranking:
    """Order `choices`. Raises TokenrelayError VALIDATION_ERROR, field `preferences.…`."""
    wanted = preferences.parse(request.preferences)
    asked = features.read(request, catalogue)
    strategy = wanted.strategy or ("weighted" if wanted.weights else asked.strategy or catalogue.routing.strategy)
    avoided = _meant(catalogue, wanted.avoid, "preferences.avoid")
    question = _Question(
        features=asked,
        weights=_weights(catalogue.routing, strategy, wanted, asked),
        rules=catalogue.routing,
        needs=asked.tokens + (request.max_tokens or ANSWER_TOKENS),
        dearest=max((_price(choice.model) for choice in choices), default=0.0),
        preferred=_meant(catalogue, wanted.prefer, "preferences.prefer"),
    )
    vitals = health or {}
    ranked = [
        (_judge(choice, question, vitals.get(choice.model.id, _UNKNOWN)), vitals.get(choice.model.id, _UNKNOWN))
        for choice in choices
        if choice.model.id not in avoided
    ]
    ranked.sort(key=lambda item: (item[1].circuit == "open", len(item[0].lacks), -item[0].score))
    return Ranking(asked, strategy, tuple(item for item, _ in ranked))


def able(request: ChatRequest, catalogue: Catalogue, choices: Sequence[Choice]) -> list[Choice]:
    """Those of `choices`, in their order, that can take this request at all and that its sender does not avoid.

    Raises TokenrelayError VALIDATION_ERROR, field `preferences.avoid`.
    """
    avoided = _meant(catalogue, preferences.parse(request.preferences).avoid, "preferences.avoid")
    tokens = features.tokens_of(request) + (request.max_tokens or ANSWER_TOKENS)
    needs_tools, kinds = features.needs_tools(request), kinds_of(request).keys()
    return [
        choice
        for choice in choices
        if choice.model.id not in avoided
        and (choice.model.tools or not needs_tools)
        and all(map(choice.model.takes, kinds))
        and (choice.model.context is None or choice.model.context >= tokens)
    ]


def _meant(catalogue: Catalogue, names: Sequence[str], field: str) -> Collection[str]:
    ids: set[str] = set()
    for number, name in enumerate(names):
        meant = catalogue.meant(name)
        if not meant:
            raise preferences.fault(f"{field}[{number}]", f"no model and no provider is called {name[:80]!r}")
        ids.update(meant)
    return ids


def _weights(rules: RoutingRules, strategy: Strategy, wanted: Preferences, asked: Features) -> Weights:
    weights = rules.strategies.of(strategy)
    if wanted.weights is not None:
        given = {name: value for name, value in msgspec.structs.asdict(wanted.weights).items() if value is not None}
        weights = msgspec.structs.replace(weights, **given)
        if not any(msgspec.structs.astuple(weights)):
            raise preferences.fault("preferences.weights", "expected at least one above 0")
    elif strategy == "balanced" and asked.length == "short":
        weights = msgspec.structs.replace(weights, speed=weights.speed + rules.length.short_speed)
    elif strategy == "balanced" and asked.length == "long":
        weights = msgspec.structs.replace(weights, quality=weights.quality + rules.length.long_quality)
    return weights


def _judge(choice: Choice, question: _Question, vitals: Vitals) -> Ranked:
    model, asked, rules, weights = choice.model, question.features, question.rules, question.weights
    reasons: list[str] = []
    place = model.traits.strengths.index(asked.kind) if asked.kind in model.traits.strengths else None
    strength = 0.0 if place is None else 1.0 - _STEP * place
    if place is not None:
        reasons.append(f"good at {asked.kind}")
    points = (
        weights.quality * (model.traits.quality - 1) / 4
        + weights.speed * _speed(model, vitals, rules)
        + weights.cost * _cheapness(model, question.dearest)
        + weights.strength * strength
    )
    if asked.language != "en" and asked.kind != "languages" and "languages" in model.traits.strengths:
        points += rules.language_weight
        reasons.append(f"good at languages, asked in {asked.language}")
    if model.id in question.preferred:
        points += rules.prefer_weight
        reasons.append("preferred by the caller")
    if vitals.error_rate >= 0.05:
        points -= rules.health.error_weight * vitals.error_rate
        reasons.append(f"{vitals.error_rate:.0%} of its calls failed lately")
    if vitals.circuit == "half_open":
        reasons.append("tried again after a rest")
    total = sum(msgspec.structs.astuple(weights)) or 1.0
    return Ranked(choice, round(points / total, 3), tuple(reasons), tuple(_lacks(model, question, vitals)))


def _lacks(model: Model, question: _Question, vitals: Vitals) -> list[str]:
    lacks = []
    if vitals.circuit == "open":
        lacks.append("rests after failures")
    if model.context is not None and question.needs > model.context:
        lacks.append("has no room for the conversation")
    if question.features.needs_tools and not model.tools:
        lacks.append("takes no tools")
    if model.traits.quality < question.rules.least_quality:
        lacks.append("is a last resort")
    return lacks


def _price(model: Model) -> float:
    """Dollars for a million tokens, three read for one written."""
    return (3 * model.price.input + model.price.output) / 4


def _cheapness(model: Model, dearest: float) -> float:
    """1 where it costs nothing, 0 for the dearest candidate; by orders of magnitude, as prices go."""
    return 1.0 if dearest <= 0 else 1.0 - math.log1p(_price(model)) / math.log1p(dearest)


def _speed(model: Model, vitals: Vitals, rules: RoutingRules) -> float:
    """The grade, and where it has been measured mostly that."""
    grade = (model.traits.speed - 1) / 4
    if vitals.ttft_ms is None:
        return grade
    return (grade + 2 / (1 + vitals.ttft_ms / rules.health.slow_ms)) / 3


def nothing_left(by_avoid: bool) -> TokenrelayError:
    """Nobody can be asked."""
    why = " that the caller does not avoid" if by_avoid else " that was asked for"
    return TokenrelayError("SERVICE_UNAVAILABLE", f"no model{why} can answer here now")
