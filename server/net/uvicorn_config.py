"""uvicorn's configuration with our bounds on one connection. Knows no protocol."""

from __future__ import annotations

import uvicorn

from tokenrelay.server.access.limits import LargeBodies


class Config(uvicorn.Config):
    """uvicorn's, with connections of the process, seconds for a request's head (and again its body), the largest body
    without parts, and with them."""

    max_connections: int
    read_timeout_s: float
    max_body_bytes: int
    max_large_bytes: int = 0
    large_bodies = LargeBodies(1)
    """Messages on WebSockets that are beyond the usual size already and not whole yet."""
