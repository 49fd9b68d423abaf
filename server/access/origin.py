"""Which web pages may call an edge: its own, and those of `TOKENRELAY_ALLOWED_ORIGINS`. Pure; knows no key.

A browser sends `Origin` with every WebSocket handshake and every call that could change something, and asks nobody
before a WebSocket or a plain-text POST: so it has to be refused here (RFC 6455 section 10.2). While no key is needed
the name in `Host` must be loopback's as well: else any page could rebind its own name to 127.0.0.1 and be "the same
origin".
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.server.settings import Settings, is_loopback, parse_networks, parse_origins

SECURITY_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    # No page of another site may embed it, whatever it calls it: no script, no image (Fetch standard, section 3.7).
    (b"cross-origin-resource-policy", b"same-origin"),
)
"""In the head of every answer. `Referrer-Policy` because an address may hold a ticket."""

NOT_A_PAGE: Final = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
"""Of what is no page: whatever a browser takes it for, it runs and loads nothing."""

_EXPOSED: Final = (
    b"X-Stream-Id, Location, X-Request-Id, Retry-After, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset"
)
_ASKED: Final = (
    "Accept, Authorization, Cache-Control, Content-Type, Idempotency-Key, Last-Event-ID, Pragma, X-Debug-Timing, "
    "X-Request-Id, traceparent"
)
"""What our clients and those of others send: polyfills of EventSource add Cache-Control."""

_PREFLIGHT_S: Final = 600


def check(headers: Mapping[str, str], settings: Settings, scheme: str | None = None) -> None:
    """Raises TokenrelayError FORBIDDEN for a page that may not call. Programs send no `Origin` and are not meant.

    `scheme` as `scheme_of` has it.
    """
    if _is_rebound(headers, settings):
        raise TokenrelayError("FORBIDDEN", "while no keys are set, call this server by a loopback name")
    origin = headers.get("origin")
    if origin is not None and not _is_allowed(origin, headers.get("host", ""), settings, scheme):
        raise TokenrelayError("FORBIDDEN", "this origin may not call; TOKENRELAY_ALLOWED_ORIGINS names those that may")


def answer_headers(
    headers: Mapping[str, str], settings: Settings, scheme: str | None = None
) -> list[tuple[bytes, bytes]]:
    """What lets the page of another, allowed origin read the answer (Fetch standard, CORS protocol)."""
    origin = headers.get("origin")
    if origin is None or _is_rebound(headers, settings):
        return []
    if not _is_allowed(origin, headers.get("host", ""), settings, scheme):
        return []
    return [
        (b"access-control-allow-origin", origin.encode("latin-1", "replace")),
        (b"access-control-expose-headers", _EXPOSED),
        (b"vary", b"Origin"),
    ]


def preflight_headers(methods: Iterable[str]) -> dict[str, str]:
    """The answer to a browser that asks first."""
    return {
        "access-control-allow-methods": ", ".join(sorted(methods)),
        "access-control-allow-headers": _ASKED,
        "access-control-max-age": str(_PREFLIGHT_S),
    }


def _is_rebound(headers: Mapping[str, str], settings: Settings) -> bool:
    return settings.is_open and not is_loopback(_name(headers.get("host", "")))


def scheme_of(client: tuple[str, int] | None, headers: Mapping[str, str], settings: Settings) -> str | None:
    """How the page's own server was called, where that is known: a proxy of `TOKENRELAY_TRUSTED_PROXIES` says so. An
    edge itself has no TLS, and what is before it may have: None then, and only the host is compared."""
    said = headers.get("x-forwarded-proto", "").strip().lower()
    if client is None or not said or not settings.trusted_proxies:
        return None
    try:
        address = ipaddress.ip_address(client[0])
    except ValueError:  # a socket without an address
        return None
    return said if any(address in network for network in parse_networks(settings.trusted_proxies)) else None


def _is_allowed(origin: str, host: str, settings: Settings, scheme: str | None) -> bool:
    try:
        page = urlsplit(origin)
    except ValueError:  # "http://[::1"
        return False
    if page.netloc.lower() == host.lower() and scheme in (None, page.scheme.lower()):
        return True
    allowed = parse_origins(settings.allowed_origins)
    return "*" in allowed or origin.lower() in allowed


def _name(host: str) -> str:
    """`Host` without its port; an IPv6 address stays in brackets."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host
