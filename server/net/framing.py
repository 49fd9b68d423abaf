"""What a request's head must be before anybody reads on: HTTP/1.1 by the letter (RFC 9112). Knows no connection.

Two servers that disagree about where a request ends hand one caller's bytes to another (request smuggling, CWE-444). So
whatever leaves room for a second reading is refused, though a lenient server could make something of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from tokenrelay.protocol.errors import TokenrelayError

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]
"""Names in lower case, in the order in which they came."""

_HOST: Final = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+(?:%25[0-9A-Za-z._~-]+)?\]"  # an IPv6 address, perhaps with a zone (RFC 6874)
    rb"|(?:[0-9A-Za-z._~-]|%[0-9A-Fa-f]{2})+)"  # a name or an IPv4 address (RFC 3986 section 3.2.2)
    rb"(?::[0-9]{0,5})?\Z"
)
_ONCE: Final = (b"authorization", b"origin", b"content-length", b"idempotency-key", b"last-event-id")
"""Headers that decide something: of two, one server would take the first and another the last."""


def check(method: str, version: str, headers: Headers) -> None:
    """Raises TokenrelayError INVALID_REQUEST for a head that is not HTTP/1.1 or 1.0 as written."""
    if version not in ("1.0", "1.1"):
        raise _fault(f"expected HTTP/1.1 or HTTP/1.0, got HTTP/{version}")
    if method == "CONNECT":
        raise _fault("this server is no proxy: CONNECT is not taken")
    _check_host(version, values_of(headers, b"host"))
    for name in _ONCE:
        if len(values_of(headers, name)) > 1:
            raise _fault(f"{name.decode().title()} may stand in a request once")
    _check_coding(version, headers)


def _check_host(version: str, hosts: list[bytes]) -> None:
    """RFC 9112 section 3.2: 400 to a request that lacks Host, has several, or one that is no host."""
    if not hosts and version == "1.0":
        return
    if len(hosts) != 1:
        raise _fault(f"a request has one Host, got {len(hosts)}")
    if not _HOST.match(hosts[0]):
        raise _fault("Host: expected NAME or NAME:PORT")


def _check_coding(version: str, headers: Headers) -> None:
    """RFC 9112 section 6.1: chunked, once, alone and in HTTP/1.1; everything else has several readings."""
    codings = tokens_of(headers, b"transfer-encoding")
    if not values_of(headers, b"transfer-encoding"):
        return
    if version != "1.1":
        raise _fault("HTTP/1.0 has no Transfer-Encoding")
    if codings != [b"chunked"]:
        raise _fault("Transfer-Encoding: only chunked is taken")
    if values_of(headers, b"content-length"):
        raise _fault("a request has Transfer-Encoding or Content-Length, not both")


def takes_websocket(method: str, version: str, headers: Headers) -> bool:
    """Whether an offer to upgrade is one that is taken: a WebSocket handshake without a body (RFC 6455 section 4.1).

    Any other offer is ignored, and its request answered as if it made none (RFC 9110 section 7.8).
    """
    has_body = bool(values_of(headers, b"transfer-encoding")) or values_of(headers, b"content-length") not in (
        [], [b"0"],
    )  # fmt: skip
    is_offer = tokens_of(headers, b"upgrade") == [b"websocket"] and b"upgrade" in tokens_of(headers, b"connection")
    return method == "GET" and version == "1.1" and is_offer and not has_body


def without_offer(method: str, target: bytes, version: str, headers: Headers) -> bytes:
    """The head again, as bytes, without its offer to upgrade."""
    lines = [b": ".join(line) for line in headers if line[0] != b"upgrade"]
    return b"\r\n".join([f"{method} ".encode() + target + f" HTTP/{version}".encode(), *lines, b"", b""])


def values_of(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for other, value in headers if other == name]


def tokens_of(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """The members of a list header, in lower case, over all its lines (RFC 9110 section 5.6.1)."""
    parts = (part.strip().lower() for value in values_of(headers, name) for part in value.split(b","))
    return [part for part in parts if part]


def _fault(issue: str) -> TokenrelayError:
    return TokenrelayError("INVALID_REQUEST", issue)
