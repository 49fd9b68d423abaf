"""JSON Web Tokens of the operator's own identity provider (RFC 7519): who they speak for, and until when.

The key decides which algorithm is taken, never the token's header: the shared secret verifies HS256 and nothing else, a
public key of the set its own algorithm, so that neither `alg: none` nor a public key used as a secret gets anywhere
(RFC 8725 sections 2.1 and 3.1).
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any, Final

import jwt
import msgspec
import structlog
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.server.access.watched_file import Watched

PUBLIC: Final = ("RS256", "ES256")
LEEWAY_S: Final = 5
"""Between the clocks of whoever signs and ours."""

MAX_SUBJECT: Final = 256
MIN_RSA_BITS: Final = 2048
"""RFC 7518 section 3.3."""

OWNER_PREFIX: Final = "jwt:"
"""No key's name has a colon, so that no subject is ever taken for a key's owner."""

log = structlog.get_logger()


class BadKeySet(ValueError):
    """A JSON Web Key Set that cannot be used; the text shows no key."""


class Bearer(msgspec.Struct, frozen=True):
    """Whom a token speaks for; `expires_at` in seconds of the epoch."""

    owner: str
    expires_at: float
    signed_by: str  # a digest of the key that verified it


class Tokens:
    """Verifies with a shared secret (HS256), a set of public keys (RS256, ES256), or both. A set is read again when its
    file changes. Raises BadKeySet or OSError when the set cannot be read."""

    def __init__(self, secret: str, jwks_file: Path | None, issuer: str, audience: str) -> None:
        self._secret = secret
        self._issuer = issuer or None  # None: any
        self._audience = audience or None  # the same
        self._keys = None if jwks_file is None else Watched(jwks_file, parse_key_set)

    def __repr__(self) -> str:
        return f"<Tokens{' HS256' if self._secret else ''}{f' {self._keys!r}' if self._keys else ''}>"

    @property
    def is_on(self) -> bool:
        return bool(self._secret) or self._keys is not None

    def verify(self, token: str) -> Bearer:
        """Raises TokenrelayError UNAUTHORIZED; what is wrong is said as far as it helps whoever holds the token."""
        try:
            header = jwt.get_unverified_header(token)
            key, algorithm, signed_by = self._key_for(header)
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "sub"], "verify_aud": self._audience is not None},
            )
            expires_at = float(claims["exp"]) + LEEWAY_S
        except jwt.ExpiredSignatureError as error:
            raise TokenrelayError("UNAUTHORIZED", "this token has expired; send a fresh one") from error
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise TokenrelayError("UNAUTHORIZED", "this token is not valid here") from error
        subject = claims["sub"]
        if not subject or len(subject) > MAX_SUBJECT or not subject.isprintable():  # a lone surrogate is not, either
            raise TokenrelayError("UNAUTHORIZED", f"a token's sub has 1 to {MAX_SUBJECT} printable characters")
        return Bearer(OWNER_PREFIX + subject, expires_at, signed_by)

    @property
    def trouble(self) -> str:
        """Why the set cannot be read now; "" when it can."""
        return "" if self._keys is None else self._keys.trouble

    @property
    def digests(self) -> list[str]:
        """Of every key that verifies now."""
        ours = [_digest(self._secret.encode())] if self._secret else []
        return ours + ([] if self._keys is None else [_digest_of_key(key) for key in self._keys.value()])

    def knows(self, signed_by: str) -> bool:
        """Whether the key that verified a token is still one of ours."""
        return signed_by in self.digests

    def _key_for(self, header: dict[str, Any]) -> tuple[Any, str, str]:
        """The key, its algorithm, and its digest."""
        algorithm = header.get("alg")
        if algorithm == "HS256" and self._secret:
            return self._secret, "HS256", _digest(self._secret.encode())
        if self._keys is None or algorithm not in PUBLIC:
            raise jwt.InvalidAlgorithmError
        fitting = [key for key in self._keys.value() if key.algorithm_name == algorithm]
        kid = header.get("kid")
        named = [key for key in fitting if key.key_id == kid] if kid is not None else fitting
        if len(named) != 1:  # a token without a kid is taken where only one key can be meant
            raise jwt.InvalidKeyError
        return named[0].key, str(algorithm), _digest_of_key(named[0])


def parse_key_set(text: str | bytes) -> list[jwt.PyJWK]:
    """The public keys of a JSON Web Key Set (RFC 7517 section 5) that can be used here; others are left out, as that
    section wants. Raises BadKeySet."""
    try:
        listed = json.loads(text)["keys"]
        usable = [key for item in listed if (key := _public_key(item)) is not None]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, BadKeySet):
            raise
        raise BadKeySet(f"not a JSON Web Key Set ({type(error).__name__})") from error
    if not usable:
        raise BadKeySet(f"the set has no public key for {' or '.join(PUBLIC)}")
    return usable


def _public_key(item: dict[str, Any]) -> jwt.PyJWK | None:
    if item.get("use", "sig") != "sig":
        return None
    if "d" in item:
        raise BadKeySet("the set holds a private key; only whoever signs may have that")
    try:
        key = jwt.PyJWK.from_dict(item)
    except jwt.PyJWTError:  # a type, a curve or an algorithm that is not known here
        return None
    if key.algorithm_name == "RS256" and key.key.key_size < MIN_RSA_BITS:
        raise BadKeySet(f"the set holds an RSA key of {key.key.key_size} bits; expected {MIN_RSA_BITS} at least")
    return key if key.algorithm_name in PUBLIC else None


def _digest_of_key(key: jwt.PyJWK) -> str:
    encoded: bytes = key.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return _digest(encoded)


def _digest(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


def has_expired(expires_at: float) -> bool:
    return time.time() >= expires_at
