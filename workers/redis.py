"""What a worker hears from Redis when it is away."""

from __future__ import annotations

from typing import Final

from redis.exceptions import RedisError

MAX_CONNECTIONS: Final = 16

AWAY: Final = (RedisError, OSError)
"""What redis-py raises when Redis is away or will not work."""
