"""uvicorn's configuration with our bounds on one connection. Knows no protocol."""

from __future__ import annotations

import uvicorn


class Config(uvicorn.Config):
    """uvicorn's, with connections of the process, seconds for a request's head (and again its body), and the largest
    body."""

    max_connections: int
    read_timeout_s: float
    max_body_bytes: int
