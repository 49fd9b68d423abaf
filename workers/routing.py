"""Who answers a request: from (request, catalogue, what can be spoken here) to one choice. Pure; knows no provider."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from protocol.catalogue import Catalogue, Choice
from protocol.errors import TokenrelayError
from protocol.request import ChatRequest


class Route(msgspec.Struct, frozen=True):
    """`label` is the `model` of every event; `routing` says why, when the caller left the choice to us."""

    choice: Choice
    label: str
    routing: dict[str, Any] | None


def route(request: ChatRequest, catalogue: Catalogue, dialects: Collection[str]) -> Route:
    """Choose. Raises TokenrelayError VALIDATION_ERROR (no such name), SERVICE_UNAVAILABLE (none can be spoken here)."""
    choices = catalogue.choices(request.model, request.provider)
    available = [choice for choice in choices if choice.model.dialect in dialects]
    if not available:
        raise TokenrelayError("SERVICE_UNAVAILABLE", "no model that was asked for can answer here now")
    choice = available[0]
    if request.model is not None and not catalogue.is_auto(request.model):
        return Route(choice, request.model, None)
    routing = {
        "chosen": choice.model.id,
        "considered": [candidate.model.id for candidate in choices],
        "reason": "the only one available" if len(available) == 1 else "first of the catalogue's order",
    }
    return Route(choice, choice.model.id, routing)
