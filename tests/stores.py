"""Stores for tests: a server's, over a URL."""

from __future__ import annotations

from redis.asyncio import Redis

from tokenrelay.protocol.runtime import redis as runtime
from tokenrelay.protocol.runtime.address import Tls
from tokenrelay.protocol.runtime.redis import NO_TLS
from tokenrelay.protocol.runtime.stores.one_server import OneServer


def open_store(url: str, tls: Tls = NO_TLS) -> OneServer:
    """Not connected yet; it need not be there."""
    return OneServer(Redis.from_pool(runtime.open_pool(url, 32, tls)))
