"""NeuroSwitch: who answers a request. From request, catalogue and health to one choice and why. Pure."""

from __future__ import annotations

from workers.routing.choose import Route, route
from workers.routing.health import Vitals

__all__ = ["Route", "Vitals", "route"]
