"""Tickets: a minute's pass for what cannot send headers, signed with a secret that all edges share and that rotates.

Time is cut into periods; each has a secret of its own in Redis, made by whichever edge needs it first, and a ticket
names its period. The one before and the one after are taken as well: a ticket outlives its period by less than a
minute, and edges' clocks may differ by as much. Nothing else is looked up, so that invented periods cost no round trip.

A ticket that does not fit what is known here may be newer than that: the secrets are read again before it is refused.
All such tickets share one read, and there are few a second: a forged ticket waits for its refusal, a good one is never
refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
import time
from typing import Any, Final

import jwt
import msgspec

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.runtime.stores.base import Store
from tokenrelay.protocol.store import keys
from tokenrelay.server.store.redis import asking, away

TICKET_S: Final = 60
AGAIN_S: Final = 0.2
"""Between two reads because of tickets that do not fit."""

_AUDIENCE: Final = "tokenrelay"


class TicketClaims(msgspec.Struct, frozen=True):
    """What a ticket says. `stream_id` None: all the owner's streams and the socket. `until`: when what it was made with
    expires, in seconds of the epoch; None: never. `key_created`: of the key it was made with; None: it was no key."""

    owner: str
    stream_id: str | None
    until: float | None
    key_created: str | None = None
    made_with: str = ""
    """A digest of the key's secret, or of what verified the token; "" where neither was needed. In a ticket that was
    read, a keyed hash of it for `Tickets.fits`: whoever holds a ticket learns nothing of the secret."""


class Tickets:
    """`rotate_s`: the length of a period."""

    def __init__(self, store: Store, rotate_s: int) -> None:
        self._store = store
        self._rotate_s = rotate_s
        self._secrets: dict[int, bytes] = {}  # by period; at most three
        self._reading = asyncio.Lock()
        self._asked_at = float("-inf")  # when the last read for a ticket began, by the monotonic clock
        self._has_failed = False  # that read

    def __repr__(self) -> str:
        return f"<Tickets {len(self._secrets)} secrets known>"

    async def write(self, granted: TicketClaims) -> str:
        """Raises TokenrelayError SERVICE_UNAVAILABLE."""
        period = self._period()
        claims: dict[str, Any] = {"sub": granted.owner, "aud": _AUDIENCE, "exp": int(time.time()) + TICKET_S}
        if granted.stream_id is not None:
            claims["stream"] = granted.stream_id
        if granted.until is not None:
            claims["until"] = granted.until
        if granted.key_created is not None:
            claims["key"] = granted.key_created
        secret = await self._make(period)
        if granted.made_with:
            claims["with"] = _proof(granted.made_with, secret)
        return jwt.encode(claims, secret, algorithm="HS256", headers={"kid": str(period)})

    async def read(self, ticket: str) -> TicketClaims:
        """Raises TokenrelayError UNAUTHORIZED, SERVICE_UNAVAILABLE."""
        try:
            period = int(jwt.get_unverified_header(ticket).get("kid", ""))
            if abs(period - self._period()) > 1:
                raise jwt.InvalidKeyError
            claims = await self._verified(ticket, period)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise TokenrelayError("UNAUTHORIZED", "this ticket is not valid or has expired") from error
        return TicketClaims(
            claims["sub"], claims.get("stream"), claims.get("until"), claims.get("key"), claims.get("with", "")
        )

    def fits(self, claims: TicketClaims, made_with: str) -> bool:
        """Whether a ticket that was read was made with this. One of an edge that does not say so yet fits all."""
        proofs = [_proof(made_with, secret) for secret in self._secrets.values()]
        return not claims.made_with or any(hmac.compare_digest(claims.made_with, proof) for proof in proofs)

    async def _verified(self, ticket: str, period: int) -> dict[str, Any]:
        arrived_at = time.monotonic()
        known = self._secrets.get(period)
        if known is not None:
            with contextlib.suppress(jwt.InvalidSignatureError):
                return _decode(ticket, known)
        # The period is new, or Redis lost its secret and another edge has made one since.
        await self._read_since(arrived_at)
        known = self._secrets.get(period)
        if known is None:
            raise jwt.InvalidSignatureError
        return _decode(ticket, known)

    def _period(self) -> int:
        return int(time.time() // self._rotate_s)

    async def _read_since(self, arrived_at: float) -> None:
        """Know the secrets as Redis had them after `arrived_at`. Raises TokenrelayError SERVICE_UNAVAILABLE.

        Whoever comes while one waits to read is served by that read.
        """
        async with self._reading:
            if self._asked_at <= arrived_at:
                await asyncio.sleep(self._asked_at + AGAIN_S - time.monotonic())  # not at all if that is past
                self._asked_at, self._has_failed = time.monotonic(), True
                await self._read()
                self._has_failed = False
            elif self._has_failed:
                raise away()

    async def _read(self) -> None:
        current = self._period()
        periods = (current - 1, current, current + 1)
        with asking():
            values = await self._store.ask("MGET", *(self._name(period) for period in periods))
        self._secrets = {period: value for period, value in zip(periods, values, strict=True) if value is not None}

    def _name(self, period: int) -> str:
        return self._store.names.for_all(keys.secret(period))

    async def _make(self, period: int) -> bytes:
        """The period's secret, always as Redis has it now: tickets are rare, and every edge must take them."""
        with asking():
            name, made = self._name(period), secrets.token_hex(32)
            # Long enough for the period before and the one after.
            made_first = ("SET", name, made, "NX", "EX", 3 * self._rotate_s)
            _, value = await self._store.ask_all([made_first, ("GET", name)])
        if value is None:
            raise away()
        current = self._period()
        kept = {known: other for known, other in self._secrets.items() if abs(known - current) <= 1}
        self._secrets = {**kept, period: bytes(value)}
        return bytes(value)


def _proof(made_with: str, secret: bytes) -> str:
    return hmac.new(secret, made_with.encode(), "sha256").hexdigest()[:32]


def _decode(ticket: str, secret: bytes) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(
        ticket, secret, algorithms=["HS256"], audience=_AUDIENCE, options={"require": ["exp", "sub", "aud"]}
    )
    return claims
