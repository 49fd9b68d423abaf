"""NeuroSwitch: who answers a request. From request, catalogue and health to one choice and why. Pure."""

from __future__ import annotations

from tokenrelay.protocol.models.circuit import Vitals
from tokenrelay.workers.routing.choose import Route, route

__all__ = ["Route", "Vitals", "route"]
