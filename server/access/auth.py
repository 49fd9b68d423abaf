"""Who is asking: keys, tokens of the operator's identity provider, tickets. Knows no stream but a ticket's."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.runtime.stores.base import Store
from tokenrelay.server.access import jwt
from tokenrelay.server.access.api_keys import ApiKeys, Key, KeyLimits
from tokenrelay.server.access.jwt import OWNER_PREFIX, Tokens
from tokenrelay.server.access.tickets import TicketClaims, Tickets
from tokenrelay.server.settings import Refused, Settings, parse_keys

ANYBODY: Final = "anonymous"


def check_files(settings: Settings) -> None:
    """Before anything is served: can the files be used? Raises Refused, which names the setting."""
    try:
        ApiKeys({}, settings.keys_file)
    except (ValueError, OSError) as error:
        raise Refused(f"TOKENRELAY_KEYS_FILE: {error}") from error
    try:
        Tokens("", settings.jwks_file, "", "")
    except (ValueError, OSError) as error:
        raise Refused(f"TOKENRELAY_JWKS_FILE: {error}") from error


class Identity(msgspec.Struct, frozen=True):
    """Whose streams these are. `only_stream` is what a ticket was limited to; None: all of the owner's. `expires_at`
    (seconds of the epoch) is when it ends by itself; None: never. `key` is the one it came with, or that its ticket was
    made with; None: there is none."""

    owner: str
    by: Literal["nobody", "key", "token", "ticket"]
    only_stream: str | None = None
    expires_at: float | None = None
    key: Key | None = None
    signed_by: str = ""  # of a token: a digest of what verified it

    @property
    def made_with(self) -> str:
        """A digest of the secret behind it, for a ticket; "" where none was needed."""
        return self.signed_by if self.key is None else self.key.digest

    def may_read(self, stream_id: str) -> bool:
        return self.only_stream is None or self.only_stream == stream_id

    def raise_if_limited(self) -> None:
        """Raises TokenrelayError FORBIDDEN for a ticket of one stream where more is asked."""
        if self.only_stream is not None:
            raise TokenrelayError("FORBIDDEN", "this ticket reads one stream, nothing else")


class Auth:
    """One per edge. Raises BadKeys, BadKeySet or OSError when a file it needs cannot be read."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._keys = ApiKeys(parse_keys(settings.api_keys), settings.keys_file)
        self._tokens = Tokens(
            settings.jwt_secret, settings.jwks_file, settings.jwt_issuer, settings.jwt_audience,
        )  # fmt: skip
        self._tickets = Tickets(store, settings.ticket_rotate_s)
        self._defaults = KeyLimits(
            settings.key_concurrency, settings.key_rate, settings.key_connections, settings.max_output_tokens,
        )  # fmt: skip

    def identify(self, authorization: str | None) -> Identity:
        """By header. Raises TokenrelayError UNAUTHORIZED."""
        if not self._keys.is_needed and not self._tokens.is_on:
            return Identity(ANYBODY, "nobody")
        scheme, _, secret = (authorization or "").partition(" ")
        secret = secret.strip()
        if scheme.lower() not in ("bearer", "apikey") or not secret:
            raise TokenrelayError("UNAUTHORIZED", "send Authorization: Bearer KEY")
        key = self._keys.find(secret)
        if key is not None:
            return Identity(key.name, "key", key=key)
        if self._tokens.is_on and scheme.lower() == "bearer" and secret.count(".") == 2:
            bearer = self._tokens.verify(secret)
            return Identity(bearer.owner, "token", expires_at=bearer.expires_at, signed_by=bearer.signed_by)
        raise TokenrelayError("UNAUTHORIZED", "this key is not known here")

    async def identify_with_ticket(self, authorization: str | None, ticket: str | None) -> Identity:
        """By ticket if there is one, else by header. Raises TokenrelayError UNAUTHORIZED, SERVICE_UNAVAILABLE."""
        if ticket is None:
            return self.identify(authorization)
        found = await self._tickets.read(ticket)
        key = self._keys.named(found.owner)
        signed_by = ""
        if found.owner.startswith(OWNER_PREFIX):  # a ticket's owner tells what it was made with
            signed_by = next((each for each in self._tokens.digests if self._tickets.fits(found, each)), "")
        identity = Identity(found.owner, "ticket", found.stream_id, found.until, key, signed_by)
        is_same = self._tickets.fits(found, identity.made_with)
        if not is_same or (None if key is None else key.created) != found.key_created or self.has_ended(identity):
            raise TokenrelayError("UNAUTHORIZED", "what this ticket was made with is not valid any more")
        return identity

    async def ticket(self, identity: Identity, stream_id: str | None) -> str:
        """A ticket for a minute, for one stream or for all the owner's. What is opened with it lasts no longer than the
        key or the token it was made with. Raises TokenrelayError SERVICE_UNAVAILABLE."""
        created = None if identity.key is None else identity.key.created
        return await self._tickets.write(
            TicketClaims(identity.owner, stream_id, identity.expires_at, created, identity.made_with)
        )

    def has_ended(self, identity: Identity) -> bool:
        """Whether a connection that was opened so has to close: the token has expired; the key was revoked, though its
        name may have been given again since. Cheap: every connection asks once a second."""
        if identity.expires_at is not None and jwt.has_expired(identity.expires_at):
            return True
        if identity.key is not None:
            return not identity.key.is_same(self._keys.named(identity.owner))
        if identity.owner.startswith(OWNER_PREFIX):  # a ticket's owner tells what it was made with
            return not self._tokens.knows(identity.signed_by)
        return self._keys.is_needed or self._tokens.is_on

    @property
    def has_many_owners(self) -> bool:
        """Whether one who asks too much would take something from another."""
        return self._tokens.is_on or len(self._keys) > 1

    @property
    def trouble(self) -> list[str]:
        """Files that cannot be read now: what they said before holds, but for keys whose line is gone."""
        named = (("TOKENRELAY_KEYS_FILE", self._keys.trouble), ("TOKENRELAY_JWKS_FILE", self._tokens.trouble))
        return [name for name, words in named if words]

    def raise_if_ended(self, identity: Identity) -> None:
        """Raises TokenrelayError UNAUTHORIZED when it has ended."""
        if self.has_ended(identity):
            raise TokenrelayError("UNAUTHORIZED", "what opened this connection is not valid any more")

    def limits(self, identity: Identity) -> KeyLimits:
        """What it may; all numbers are set, 0 for no limit."""
        key = self._keys.named(identity.owner)
        return self._defaults if key is None else key.limits.over(self._defaults)
