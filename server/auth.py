"""Who is asking: keys, and tickets for what cannot send headers. Knows no stream but the one a ticket names."""

from __future__ import annotations

import secrets
import time
from typing import Final, Literal

import jwt
import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from protocol import keys
from protocol.errors import TokenrelayError
from server.keyring import KeyRing
from server.redis import UNREACHABLE, away
from server.settings import Settings, parse_keys

ANYBODY: Final = "anonymous"
TICKET_S: Final = 60
SECRET_S: Final = 24 * 3600
SECRET_CACHED_S: Final = 30.0
_AUDIENCE: Final = "tokenrelay"


class Identity(msgspec.Struct, frozen=True):
    """Whose streams these are. `only_stream` is what a ticket was limited to; None: all of the owner's."""

    owner: str
    by: Literal["nobody", "key", "ticket"]
    only_stream: str | None = None

    def may_read(self, stream_id: str) -> bool:
        return self.only_stream is None or self.only_stream == stream_id

    def must_not_be_limited(self) -> None:
        """Raises TokenrelayError FORBIDDEN for a ticket of one stream where more is asked."""
        if self.only_stream is not None:
            raise TokenrelayError("FORBIDDEN", "this ticket reads one stream, nothing else")


class Auth:
    """Keys by name, and the secret that all edges sign tickets with."""

    def __init__(self, settings: Settings, redis: Redis) -> None:
        self._keys = KeyRing(parse_keys(settings.api_keys), settings.keys_file)
        self._redis = redis
        self._secret = b""
        self._secret_until = 0.0  # by the monotonic clock

    def identify(self, authorization: str | None) -> Identity:
        """By header. Raises TokenrelayError UNAUTHORIZED."""
        if not self._keys.is_needed:
            return Identity(ANYBODY, "nobody")
        scheme, _, secret = (authorization or "").partition(" ")
        if scheme.lower() not in ("bearer", "apikey") or not secret.strip():
            raise TokenrelayError("UNAUTHORIZED", "send Authorization: Bearer KEY")
        found = self._keys.owner_of(secret.strip())
        if found is None:
            raise TokenrelayError("UNAUTHORIZED", "this key is not known here")
        return Identity(found, "key")

    async def identify_with_ticket(self, authorization: str | None, ticket: str | None) -> Identity:
        """By ticket if there is one, else by header. Raises TokenrelayError UNAUTHORIZED, SERVICE_UNAVAILABLE."""
        if ticket is None:
            return self.identify(authorization)
        try:
            claims = jwt.decode(
                ticket,
                await self._signing_secret(),
                algorithms=["HS256"],
                audience=_AUDIENCE,
                options={"require": ["exp", "sub", "aud"]},
            )
        except jwt.InvalidTokenError as error:
            raise TokenrelayError("UNAUTHORIZED", "this ticket is not valid or has expired") from error
        stream_id = claims.get("stream")
        return Identity(claims["sub"], "ticket", stream_id if isinstance(stream_id, str) else None)

    async def ticket(self, identity: Identity, stream_id: str | None) -> str:
        """A ticket for `TICKET_S` seconds, for one stream or for all the owner's."""
        claims = {"sub": identity.owner, "aud": _AUDIENCE, "exp": int(time.time()) + TICKET_S}
        if stream_id is not None:
            claims["stream"] = stream_id
        return jwt.encode(claims, await self._signing_secret(), algorithm="HS256")

    async def _signing_secret(self) -> bytes:
        """The same on all edges; whoever comes first makes it."""
        if time.monotonic() < self._secret_until:
            return self._secret
        try:
            await self._redis.set(keys.SECRET, secrets.token_hex(32), nx=True, ex=SECRET_S)
            secret = await self._redis.get(keys.SECRET)
        except (*UNREACHABLE, RedisError) as error:
            raise away() from error
        if secret is None:
            raise away()
        self._secret, self._secret_until = secret, time.monotonic() + SECRET_CACHED_S
        return self._secret
