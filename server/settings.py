"""What an operator can set on an edge: environment variables `TOKENRELAY_*`, valid or refused at the start."""

from __future__ import annotations

import base64
import binascii
import functools
import ipaddress
from pathlib import Path
from typing import Final, Self, TypeAlias
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, field_validator, model_validator

from tokenrelay.protocol.runtime.settings import Shared
from tokenrelay.protocol.wire.parts import Bounds

MIN_SECRET: Final = 32
SHORT_SECRET: Final = 16
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class Settings(Shared):
    """Those of an edge."""

    host: str = Field("127.0.0.1", description="address an edge listens on; other than loopback needs keys")
    port: int = Field(8000, ge=0, le=65535, description="port an edge listens on; 0: any free one")
    api_keys: str = Field(
        "", repr=False, description="`name:secret` pairs, comma separated; a name owns the streams it starts"
    )
    keys_file: Path | None = Field(None, description="file of hashed keys, see `tokenrelay keys`")
    jwt_secret: str = Field(
        "", repr=False, description="verifies callers' tokens signed with HS256; at least 32 characters"
    )
    jwks_file: Path | None = Field(
        None, description="JSON Web Key Set that verifies callers' tokens signed with RS256 or ES256"
    )
    jwt_issuer: str = Field("", description="required `iss` of a token; empty: any")
    jwt_audience: str = Field("", description="required `aud` of a token; empty: any")
    ticket_rotate_s: int = Field(3_600, ge=60, description="how often edges change the secret that signs tickets")
    allowed_origins: str = Field("", description="other web origins that may call it; comma separated, `*`: all")
    trusted_proxies: str = Field(
        "", description="addresses or networks of proxies whose `X-Forwarded-Proto` counts; comma separated"
    )
    max_queue: int = Field(10_000, ge=0, description="generations that may wait; one more is refused with `OVERLOADED`")
    max_queue_bytes: int = Field(
        268_435_456, ge=0, description="bytes of the requests that may wait; 0: no limit beside their number"
    )
    key_queue_share: float = Field(
        0.5, gt=0, le=1, description="share of the queue that one key may fill, where there are several keys"
    )
    key_concurrency: int = Field(0, ge=0, description="concurrent streams of one key; 0: no limit")
    key_rate: int = Field(0, ge=0, description="streams one key may start per minute; 0: no limit")
    queue_timeout_s: float = Field(120, gt=0, description="how long a generation may wait before it ends in `TIMEOUT`")
    offer_memory_s: float = Field(
        60, ge=0, description="a model that no worker offers any more is still queued for this long, not refused"
    )
    send_timeout_s: float = Field(30, gt=0, description="a client that accepts no data for this long is closed")
    drain_s: float = Field(
        10,
        ge=0,
        description="SIGTERM: the window over which an edge closes its connections",
    )
    max_connection_age_s: float = Field(
        3_600,
        ge=0,
        validation_alias=AliasChoices("TOKENRELAY_MAX_CONNECTION_AGE_S", "TOKENRELAY_ROTATE_S"),
        description="maximum age of a connection, plus or minus a fifth; the client reconnects; 0: no limit. "
        "`TOKENRELAY_ROTATE_S` is an alias",
    )
    max_body_bytes: int = Field(1_048_576, ge=1_024, description="largest request body and WebSocket message")
    max_parts: int = Field(20, ge=0, description="pictures, files and sounds in one request")
    max_part_bytes: int = Field(10_485_760, ge=1, description="largest of them, decoded")
    max_parts_bytes: int = Field(26_214_400, ge=1, description="all of one request, decoded")
    max_parts_stored_bytes: int = Field(
        1_073_741_824, ge=1, description="those of all requests that have not ended, in Redis; one key may have a tenth"
    )
    max_large_bodies: int = Field(
        8, ge=1, description="requests beyond `TOKENRELAY_MAX_BODY_BYTES` that one edge process reads at once"
    )
    read_timeout_s: float = Field(
        20, gt=0, description="time for a request's head, then its body, and for a WebSocket message to arrive"
    )
    max_connections: int = Field(
        20_000, ge=1, description="open sockets of one edge process; one more is refused with `OVERLOADED`"
    )
    key_connections: int = Field(
        0, ge=0, description="open responses and WebSockets of one key at one edge process; 0: no limit"
    )
    message_rate: float = Field(
        100, ge=0, description="WebSocket messages per second on one socket, 512 at once; 0: no limit"
    )
    max_output_tokens: int = Field(0, ge=0, description="largest `max_tokens`, and its default; 0: the model's own")
    log_refusals: bool = Field(False, description="1 logs every refusal, with its code and whose request it was")
    front_grace_s: int = Field(
        30,
        ge=0,
        le=3_600,
        description="an answer of `/v1` goes on for so long after its only reader has left",
    )
    webhook_url: str = Field("", repr=False, description="each stream's end is sent there, see [Webhooks](webhooks.md)")
    webhook_secret: str = Field(
        "", repr=False, description="signs webhooks: `whsec_` and base64; two, comma separated, while it is changed"
    )
    heartbeat_s: float = Field(15, gt=0, description="silence after which a comment is sent")

    @field_validator("jwt_secret")
    @classmethod
    def _long_enough(cls, value: str) -> str:
        if value != value.strip():
            raise ValueError("a secret does not begin or end with white space")
        if value and len(value) < MIN_SECRET:  # RFC 7518 section 3.2: as long as the hash at least
            raise ValueError(f"a secret has at least {MIN_SECRET} characters")
        return value

    @field_validator("api_keys")
    @classmethod
    def _pairs(cls, value: str) -> str:
        if value and not parse_keys(value):
            raise ValueError("expected name:secret, or nothing at all: this holds no key")
        return value

    @field_validator("host")
    @classmethod
    def _one_host(cls, value: str) -> str:
        if any(mark.isspace() or mark in ",/@" for mark in value):
            raise ValueError("expected one address or host name")
        return value

    @field_validator("jwt_issuer", "jwt_audience")
    @classmethod
    def _plain(cls, value: str) -> str:
        if value != value.strip() or not value.isprintable():
            raise ValueError("expected the value as tokens have it, without white space around it")
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, value: str) -> str:
        if value and not parse_origins(value):
            raise ValueError(f"{_ORIGIN}, or nothing at all")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: str) -> str:
        if value and not parse_networks(value):
            raise ValueError(f"{_NETWORK}, or nothing at all")
        return value

    @field_validator("webhook_url")
    @classmethod
    def _web_address(cls, value: str) -> str:
        if value and not _is_web_address(value):
            raise ValueError("expected http(s)://host[:port]/path, without a user name, a password and a fragment")
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _signing_secrets(cls, value: str) -> str:
        parse_webhook_secrets(value)
        return value

    @model_validator(mode="after")
    def _signed_webhooks(self) -> Self:
        if bool(self.webhook_url) != bool(self.webhook_secret):
            raise ValueError("TOKENRELAY_WEBHOOK_URL and TOKENRELAY_WEBHOOK_SECRET go together")
        return self

    @property
    def part_bounds(self) -> Bounds:
        """What one request may hold beside text."""
        return Bounds(self.max_parts, self.max_part_bytes, self.max_parts_bytes)

    @property
    def max_large_bytes(self) -> int:
        """The largest request: what every request may have, and its parts in base64."""
        return self.max_body_bytes + (self.part_bounds.body_bytes if self.max_parts else 0)

    @property
    def is_open(self) -> bool:
        """True when neither key nor token is needed; only on loopback."""
        return not self.api_keys and self.keys_file is None and not self.jwt_secret and self.jwks_file is None


class Refused(Exception):
    """The settings would open the server to strangers."""


def check_exposure(settings: Settings) -> None:
    """Raises Refused when there are no keys and the address is not loopback, or when what was set guards nothing."""
    if settings.is_open and not is_loopback(settings.host):
        raise Refused(
            f"TOKENRELAY_HOST={settings.host} is reachable from outside and TOKENRELAY_API_KEYS is empty: "
            "set keys (name:secret), TOKENRELAY_KEYS_FILE or TOKENRELAY_JWKS_FILE, or listen on 127.0.0.1"
        )
    if settings.jwt_secret or settings.jwks_file is not None:
        return
    for name in ("jwt_issuer", "jwt_audience"):
        if getattr(settings, name):
            raise Refused(
                f"TOKENRELAY_{name.upper()}: nothing verifies tokens; "
                "set TOKENRELAY_JWKS_FILE or TOKENRELAY_JWT_SECRET as well"
            )


@functools.lru_cache(maxsize=64)
def is_loopback(host: str) -> bool:
    """Asked twice of every request while no key is needed; parsing an address takes longer than all else of it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


_ORIGIN: Final = "expected scheme://host[:port], comma separated, or *"
_NETWORK: Final = "expected addresses or networks such as 10.0.0.0/8, comma separated"


def parse_origins(text: str) -> frozenset[str]:
    """Origins as browsers send them, in lower case. Raises ValueError."""
    parts = _parts(text)
    if not all(part == "*" or _is_origin(part) for part in parts):
        raise ValueError(_ORIGIN)
    return frozenset(part.rstrip("/").lower() for part in parts)


def _is_origin(text: str) -> bool:
    try:
        split = urlsplit(text)
        if split.port == 0 or not split.scheme or not split.hostname:
            return False
    except ValueError:  # "http://[::1", a port that is no number
        return False
    return not (split.path.strip("/") or split.query or split.fragment or "@" in split.netloc or "*" in text)


def parse_networks(text: str) -> tuple[Network, ...]:
    """Raises ValueError."""
    try:
        return tuple(ipaddress.ip_network(part) for part in _parts(text))
    except ValueError:
        raise ValueError(_NETWORK) from None


def _parts(text: str) -> list[str]:
    return [part for each in text.split(",") if (part := each.strip())]


def _is_web_address(text: str) -> bool:
    try:
        split = urlsplit(text)
        if split.port == 0:
            return False
    except ValueError:
        return False
    is_plain = not any(mark.isspace() for mark in text) and text.isprintable() and "@" not in split.netloc
    return split.scheme in ("http", "https") and bool(split.hostname) and is_plain and not split.fragment


def parse_webhook_secrets(text: str) -> list[bytes]:
    """`whsec_` and base64 of 24 to 64 bytes each, as Standard Webhooks has them. Raises ValueError that shows none."""
    found = []
    for part in _parts(text):
        try:
            secret = base64.b64decode(part.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            secret = b""
        if not part.startswith("whsec_") or not 24 <= len(secret) <= 64:
            raise ValueError("expected whsec_ and the base64 of 24 to 64 random bytes")
        found.append(secret)
    if text and not found:
        raise ValueError("expected whsec_ and base64, or nothing at all: this holds no secret")
    return found


def weak_keys(settings: Settings) -> list[str]:
    """Names of the keys whose secret is short enough to be guessed."""
    return [name for name, secret in parse_keys(settings.api_keys).items() if len(secret) < SHORT_SECRET]


def parse_keys(text: str) -> dict[str, str]:
    """`name:secret,…` as secret by name. Raises ValueError that shows no secret."""
    keys: dict[str, str] = {}
    for number, pair in enumerate(filter(None, (part.strip() for part in text.split(","))), 1):
        name, colon, secret = pair.partition(":")
        if not colon or not name or not secret or not name.isprintable():
            raise ValueError(f"pair {number} of TOKENRELAY_API_KEYS is not name:secret")
        if name in keys:
            raise ValueError(f"the name of pair {number} of TOKENRELAY_API_KEYS stands there twice")
        keys[name] = secret
    return keys
