"""Parses the address of Redis, Sentinel's form included; opens nothing.

redis://[[user]:password@]host:port/db     rediss:// for TLS, unix://path?db=0 for a socket: as redis-py reads them
redis+sentinel://[[user]:password@]host:port[,host:port…]/service[/db][?sentinel_username=…&sentinel_password=…]
rediss+sentinel://… the same with TLS, to the Sentinels as well
redis+cluster://[[user]:password@]host:port[,host:port…]    some servers of a cluster; rediss+cluster:// with TLS
A password's / # ? @ [ ] % are written %2F %23 %3F %40 %5B %5D %25.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import msgspec

SENTINEL_SCHEMES: Final = ("redis+sentinel", "rediss+sentinel")
CLUSTER_SCHEMES: Final = ("redis+cluster", "rediss+cluster")
_OF_SEVERAL: Final = (*SENTINEL_SCHEMES, *CLUSTER_SCHEMES)
SCHEMES: Final = ("redis", "rediss", "unix", *_OF_SEVERAL)
EXPECTED: Final = (
    "expected redis://[[user]:password@]host:port/db (or rediss://, unix://, redis+sentinel://, rediss+sentinel://, "
    "redis+cluster://, rediss+cluster://); in a password write / # ? @ [ ] as %2F %23 %3F %40 %5B %5D"
)
_SENTINEL: Final = "expected redis+sentinel://host:port[,host:port]/service[/db]"
_CLUSTER: Final = "expected redis+cluster://[user:password@]host:port[,host:port], without a database"
SENTINEL_PORT: Final = 26_379
REDIS_PORT: Final = 6_379


class Tls(msgspec.Struct, frozen=True):
    """Paths, None for what is not set: certificates that vouch for Redis's, our own certificate, and its key."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None


class SentinelAddress(msgspec.Struct, frozen=True):
    """Sentinels to ask for the primary called `service`; user and password are Redis's, the others Sentinel's own."""

    hosts: tuple[tuple[str, int], ...]
    service: str
    db: int = 0
    username: str | None = None
    password: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    is_tls: bool = False


def split(url: str) -> SplitResult:
    """The parts of an address. Raises ValueError, which shows nothing of it, where a password was not encoded: a piece
    of it would be taken for a host, a port or a database, and be printed as one."""
    try:
        parts = urlsplit(url)
        places = parts.netloc.rpartition("@")[2]
        is_bad = parts.netloc.count("@") > 1 or bool(parts.fragment) or "@" in parts.path + parts.query
        if parts.scheme not in _OF_SEVERAL:
            is_bad = is_bad or (parts.port or 0) < 0 or "," in places
    except ValueError:
        raise ValueError(EXPECTED) from None
    if is_bad or parts.scheme not in SCHEMES or any(mark in url for mark in " \t\r\n"):
        raise ValueError(EXPECTED)
    return parts


def parse_sentinel(url: str) -> SentinelAddress | None:
    """None for an address that is not Sentinel's. Raises ValueError that shows no password."""
    parts = split(url)
    if parts.scheme not in SENTINEL_SCHEMES:
        return None
    credentials, _, places = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    service, _, db = parts.path.strip("/").partition("/")
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if not service or not (db or "0").isdigit():
        raise ValueError(_SENTINEL)
    return SentinelAddress(
        hosts=tuple(_host(place, SENTINEL_PORT, _SENTINEL) for place in places.split(",")),
        service=unquote(service),
        db=int(db or 0),
        username=unquote(username) or None,
        password=unquote(password) or None,
        sentinel_username=query.get("sentinel_username"),
        sentinel_password=query.get("sentinel_password"),
        is_tls=parts.scheme.startswith("rediss"),
    )


class ClusterAddress(msgspec.Struct, frozen=True):
    """Some servers of a cluster, to ask for all the others; user and password are those of each."""

    hosts: tuple[tuple[str, int], ...]
    username: str | None = None
    password: str | None = None
    is_tls: bool = False


def parse_cluster(url: str) -> ClusterAddress | None:
    """None for an address that is not a cluster's. Raises ValueError that shows no password."""
    parts = split(url)
    if parts.scheme not in CLUSTER_SCHEMES:
        return None
    credentials, _, places = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    if parts.path.strip("/") or parts.query:
        raise ValueError(_CLUSTER)
    return ClusterAddress(
        hosts=tuple(_host(place, REDIS_PORT, _CLUSTER) for place in places.split(",")),
        username=unquote(username) or None,
        password=unquote(password) or None,
        is_tls=parts.scheme.startswith("rediss"),
    )


def _host(place: str, default_port: int, expected: str) -> tuple[str, int]:
    host, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):
        host, port = place, str(default_port)
    if not host or not port.isdigit() or int(port) > 65_535:
        raise ValueError(expected)
    return host.strip("[]"), int(port)
