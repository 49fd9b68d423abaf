"""Parses the address of Redis, Sentinel's form included; opens nothing.

redis://[[user]:password@]host:port/db     rediss:// for TLS, unix://path?db=0 for a socket: as redis-py reads them
redis+sentinel://[[user]:password@]host:port[,host:port…]/service[/db][?sentinel_username=…&sentinel_password=…]
"""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

SENTINEL_SCHEME: Final = "redis+sentinel"
SENTINEL_PORT: Final = 26_379


class SentinelAddress(msgspec.Struct, frozen=True):
    """Sentinels to ask for the primary called `service`; user and password are Redis's, the others Sentinel's own."""

    hosts: tuple[tuple[str, int], ...]
    service: str
    db: int = 0
    username: str | None = None
    password: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None


def parse_sentinel(url: str) -> SentinelAddress | None:
    """None for an address that is not Sentinel's. Raises ValueError that shows no password."""
    if not url.startswith(f"{SENTINEL_SCHEME}://"):
        return None
    parts = urlsplit(url)
    credentials, _, places = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    service, _, db = parts.path.strip("/").partition("/")
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if not service or not (db or "0").isdigit():
        raise ValueError("expected redis+sentinel://host:port[,host:port]/service[/db]")
    return SentinelAddress(
        hosts=tuple(_host(place) for place in places.split(",")),
        service=unquote(service),
        db=int(db or 0),
        username=unquote(username) or None,
        password=unquote(password) or None,
        sentinel_username=query.get("sentinel_username"),
        sentinel_password=query.get("sentinel_password"),
    )


def _host(place: str) -> tuple[str, int]:
    host, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):
        host, port = place, str(SENTINEL_PORT)
    if not host or not port.isdigit():
        raise ValueError(f"expected host:port, got {place!r}")
    return host.strip("[]"), int(port)
