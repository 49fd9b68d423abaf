"""A caller's preferences for NeuroSwitch, validated when made; an error names the wrong one. Knows no model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.models.routing_rules import Strategy, Weight

MAX_NAMES: Final = 32

Names = Annotated[list[Annotated[str, msgspec.Meta(min_length=1, max_length=200)]], msgspec.Meta(max_length=MAX_NAMES)]


class WeightPreferences(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`preferences.weights`: what is left out comes from the catalogue."""

    quality: Weight | None = None
    speed: Weight | None = None
    cost: Weight | None = None
    strength: Weight | None = None


class Preferences(msgspec.Struct, frozen=True):
    """`avoid` and `prefer` hold names of models or providers."""

    strategy: Strategy | None = None
    weights: WeightPreferences | None = None
    avoid: Names = []
    prefer: Names = []


def parse(value: Mapping[str, Any] | None) -> Preferences:
    """Raises TokenrelayError VALIDATION_ERROR, field `preferences.…`. Unknown fields are not looked at."""
    if not value:
        return Preferences()
    try:
        preferences = msgspec.convert(value, type=Preferences)
    except msgspec.ValidationError as error:
        issue, _, path = str(error).partition(" - at `$")
        raise fault("preferences" + path.rstrip("`"), issue) from error
    if preferences.weights is not None and preferences.strategy not in (None, "weighted"):
        raise fault("preferences.weights", f"expected strategy weighted with them, got {preferences.strategy}")
    return preferences


def fault(field: str, issue: str) -> TokenrelayError:
    return TokenrelayError("VALIDATION_ERROR", f"{field}: {issue}", field=field, issue=issue)
