"""NeuroSwitch: who answers a request. From request, catalogue and health to one choice and why. Pure."""

from __future__ import annotations

from protocol.health import Vitals
from workers.routing.choose import Route, route

__all__ = ["Route", "Vitals", "route"]
