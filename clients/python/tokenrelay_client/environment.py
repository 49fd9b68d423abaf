"""What a client takes from its environment where the caller says nothing: the address, the key, the proxy.

`TOKENRELAY_URL`; `TOKENRELAY_API_KEY`, or `TOKENRELAY_KEY` as it was called before; and the proxy variables that curl
reads: `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`, in capital letters too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, Literal, TypeAlias
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from tokenrelay_client.errors import Failed, Refused

DEFAULT_URL: Final = "http://127.0.0.1:8000"

Key: TypeAlias = str | Callable[[], str]
"""A function is asked for every request."""

Proxy: TypeAlias = str | Literal[True] | None
"""True: as the environment says; None: no proxy."""


def url_or_default(url: str | None) -> str:
    """The server's address, its scheme in lower case, without a slash at the end. Raises Refused INVALID_REQUEST."""
    given = url if url is not None else os.environ.get("TOKENRELAY_URL") or DEFAULT_URL
    parts = _split(given)
    if parts is None:
        source = "" if url is not None else " in TOKENRELAY_URL"
        raise Refused("INVALID_REQUEST", f"the server's address is http://… or https://…, got {given[:80]!r}{source}")
    return parts.geturl().rstrip("/")


def key_or_default(key: Key | None) -> Key | None:
    """None where there is none; an empty one given by the caller means none as well."""
    if key is not None:
        return key or None
    return os.environ.get("TOKENRELAY_API_KEY") or os.environ.get("TOKENRELAY_KEY") or None


def header_of(key: Key | None) -> dict[str, str]:
    """`Authorization`, or nothing. Raises Refused INVALID_REQUEST: the key cannot be sent; Failed: its function did."""
    if callable(key):
        try:
            key = key()
        except Exception as error:
            # Whatever it is, an OSError included: it is the caller's, and no broken connection.
            message = f"the function that gives the key failed: {type(error).__name__}: {error}"
            raise Failed("INTERNAL_ERROR", message, retryable=False) from error
    if not key:
        return {}
    if fault := _fault_of(key):
        raise Refused("INVALID_REQUEST", f"the key (TOKENRELAY_API_KEY) cannot be sent: {fault}")
    return {"Authorization": f"Bearer {key}"}


def proxy_for(url: str, proxy: Proxy) -> str | None:
    """The proxy on the way to an address. Raises Refused INVALID_REQUEST: one that cannot be used."""
    parts = urlsplit(url)
    if proxy is True:
        if proxy_bypass(parts.netloc.rpartition("@")[2]):
            return None
        known = getproxies()
        proxy = known.get(parts.scheme) or known.get("all") or None
    if proxy is None:
        return None
    found = proxy if "://" in proxy else f"http://{proxy}"  # as curl reads it
    if _split(found) is None:
        scheme = found.partition("://")[0]
        names = "see http_proxy, https_proxy, all_proxy, no_proxy"
        message = f"a proxy is http://… or https://…, got {scheme}://…: {names}"
        raise Refused("INVALID_REQUEST", message)
    return found


def _split(url: str) -> SplitResult | None:
    """None where it is no address of HTTP."""
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        return None
    return parts if is_one else None


def _fault_of(key: object) -> str | None:
    """What is wrong with it, without showing it; None: nothing is."""
    if not isinstance(key, str):
        return f"it is a {type(key).__name__}, not a string"
    for place, character in enumerate(key, 1):
        if not (character.isascii() and character.isprintable()):
            return f"character {place} is U+{ord(character):04X}, which an HTTP header cannot hold"
    return None
