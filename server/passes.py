"""Tickets: a minute's pass for what cannot send headers, signed with a secret that all edges share and that rotates.

Time is cut into periods; each has a secret of its own in Redis, made by whichever edge needs it first, and a ticket
names its period. The one before and the one after are taken as well: a ticket outlives its period by less than a
minute, and edges' clocks may differ by as much. Nothing else is looked up, so that invented periods cost no round trip.
"""

from __future__ import annotations

import secrets
import time
from typing import Any, Final

import jwt
import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from protocol import keys
from protocol.errors import TokenrelayError
from server.redis import UNREACHABLE, away

TICKET_S: Final = 60
TRUSTED_S: Final = 30.0
"""A secret that was read is used for this long; one that does not fit is read again once a second at the most."""

AGAIN_S: Final = 1.0
_AUDIENCE: Final = "tokenrelay"


class Pass(msgspec.Struct, frozen=True):
    """What a ticket says. `stream_id` None: all the owner's streams and the socket. `until`: when what it was made with
    expires, in seconds of the epoch; None: never."""

    owner: str
    stream_id: str | None
    until: float | None


class _Secret(msgspec.Struct, frozen=True):
    value: bytes | None  # None: there is none in Redis
    read_at: float  # by the monotonic clock


class Passes:
    """`rotate_s`: the length of a period."""

    def __init__(self, redis: Redis, rotate_s: int) -> None:
        self._redis = redis
        self._rotate_s = rotate_s
        self._secrets: dict[int, _Secret] = {}  # by period; at most three

    def __repr__(self) -> str:
        return f"<Passes {len(self._secrets)} secrets known>"

    async def write(self, granted: Pass) -> str:
        """Raises TokenrelayError SERVICE_UNAVAILABLE."""
        period = self._period()
        claims: dict[str, Any] = {"sub": granted.owner, "aud": _AUDIENCE, "exp": int(time.time()) + TICKET_S}
        if granted.stream_id is not None:
            claims["stream"] = granted.stream_id
        if granted.until is not None:
            claims["until"] = granted.until
        return jwt.encode(claims, await self._make(period), algorithm="HS256", headers={"kid": str(period)})

    async def read(self, ticket: str) -> Pass:
        """Raises TokenrelayError UNAUTHORIZED, SERVICE_UNAVAILABLE."""
        try:
            period = int(jwt.get_unverified_header(ticket).get("kid", ""))
            if abs(period - self._period()) > 1:
                raise jwt.InvalidKeyError
            claims = await self._verified(ticket, period)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise TokenrelayError("UNAUTHORIZED", "this ticket is not valid or has expired") from error
        return Pass(claims["sub"], claims.get("stream"), claims.get("until"))

    async def _verified(self, ticket: str, period: int) -> dict[str, Any]:
        """Redis may have lost the secret we know, and another edge made a new one: then ours is read again."""
        try:
            return _decode(ticket, await self._known(period, TRUSTED_S))
        except jwt.InvalidSignatureError:
            return _decode(ticket, await self._known(period, AGAIN_S))

    def _period(self) -> int:
        return int(time.time() // self._rotate_s)

    async def _known(self, period: int, most_age_s: float) -> bytes:
        """The period's secret as it was read at most so long ago. Raises InvalidSignatureError when there is none."""
        known = self._secrets.get(period)
        if known is None or time.monotonic() - known.read_at >= (most_age_s if known.value else AGAIN_S):
            try:
                known = self._keep(period, await self._redis.get(keys.secret(period)))
            except (*UNREACHABLE, RedisError) as error:
                raise away() from error
        if known.value is None:
            raise jwt.InvalidSignatureError
        return known.value

    async def _make(self, period: int) -> bytes:
        """The period's secret, always as Redis has it now: tickets are rare, and every edge must take them."""
        try:
            pipe = self._redis.pipeline(transaction=False)
            # Long enough for the period before and the one after.
            pipe.set(keys.secret(period), secrets.token_hex(32), nx=True, ex=3 * self._rotate_s)
            pipe.get(keys.secret(period))
            _, value = await pipe.execute()
        except (*UNREACHABLE, RedisError) as error:
            raise away() from error
        if value is None:
            raise away()
        self._keep(period, value)
        return bytes(value)

    def _keep(self, period: int, value: bytes | None) -> _Secret:
        current = self._period()
        self._secrets = {known: kept for known, kept in self._secrets.items() if abs(known - current) <= 1}
        made = self._secrets[period] = _Secret(value, time.monotonic())
        return made


def _decode(ticket: str, secret: bytes) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(
        ticket, secret, algorithms=["HS256"], audience=_AUDIENCE, options={"require": ["exp", "sub", "aud"]}
    )
    return claims
