"""How NeuroSwitch chooses, as data: signs of what is asked, weights of what counts. Chooses nothing itself."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

Kind: TypeAlias = Literal["code", "creative", "analysis", "maths", "chat", "languages"]
Strategy: TypeAlias = Literal["balanced", "speed", "quality", "cost", "weighted"]
Weight: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=100)]
Seconds: TypeAlias = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
Share: TypeAlias = Annotated[float, msgspec.Meta(gt=0, le=1)]


class Weights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What each thing counts for. Only how they stand to one another matters."""

    quality: Weight = 1.0
    speed: Weight = 1.0
    cost: Weight = 1.0
    strength: Weight = 2.0


class Strategies(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`weighted` is what the request's own weights are laid over."""

    balanced: Weights = Weights()
    speed: Weights = Weights(quality=0.5, speed=6.0, cost=0.5, strength=0.5)
    quality: Weights = Weights(quality=6.0, speed=0.25, cost=0.0, strength=2.0)
    cost: Weights = Weights(quality=0.5, speed=0.25, cost=6.0, strength=0.5)
    weighted: Weights = Weights()

    def of(self, strategy: Strategy) -> Weights:
        weights: Weights = getattr(self, strategy)
        return weights


class Sign(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Words and patterns that speak for a kind, each found counting `weight` once.

    A word may be several (`write a poem`) and may end in `*` (`translat*`); case does not count. Patterns are regular
    expressions on the text as it is.
    """

    kind: Kind
    weight: Annotated[float, msgspec.Meta(gt=0, le=100)] = 1.0
    words: tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=80)], ...] = ()
    patterns: tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=400)], ...] = ()

    def __post_init__(self) -> None:
        for pattern in self.patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error


class Length(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of the whole conversation in estimated tokens; what short and long ones weigh more."""

    short_tokens: Annotated[int, msgspec.Meta(ge=0)] = 40
    long_tokens: Annotated[int, msgspec.Meta(ge=1)] = 2_000
    short_speed: Weight = 1.0
    long_quality: Weight = 1.0


class HealthRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a model is given a rest, and for how long."""

    smoothing: Share = 0.2
    half_life_s: Seconds = 60.0
    open_after_failures: Annotated[int, msgspec.Meta(ge=1)] = 3
    open_error_rate: Share = 0.5
    open_after_calls: Annotated[int, msgspec.Meta(ge=1)] = 10
    open_s: Seconds = 15.0
    max_open_s: Seconds = 240.0
    slow_ms: Annotated[float, msgspec.Meta(gt=0)] = 1_500.0
    error_weight: Weight = 3.0


class RoutingRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table `[routing]` of the catalogue; without it the order is by grades and prices alone."""

    strategy: Strategy = "balanced"
    language_weight: Weight = 0.5
    prefer_weight: Weight = 2.0
    least: Weight = 1.0
    least_quality: Annotated[int, msgspec.Meta(ge=1, le=5)] = 1
    strategies: Strategies = Strategies()
    length: Length = Length()
    health: HealthRules = HealthRules()
    hints: dict[str, Kind | Strategy] = {}
    sign: tuple[Sign, ...] = ()


KINDS: Final[tuple[Kind, ...]] = ("code", "creative", "analysis", "maths", "chat", "languages")
STRATEGIES: Final[tuple[Strategy, ...]] = ("balanced", "speed", "quality", "cost", "weighted")
