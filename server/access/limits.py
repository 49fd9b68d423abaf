"""How much one edge takes at once, of whom: connections, bodies being read, messages. Decides; knows no socket."""

from __future__ import annotations

import contextlib
import resource
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.server.settings import Settings

CROWDED: Final = "tokenrelay.crowded"
"""Set in the ASGI `state` of a connection that came when the process had all it may have."""

MAX_BUFFERED_BODIES: Final = 64
"""Bodies of the largest size that are held while they arrive, over all connections. Only those of known callers are
read; of what is free one caller may have half, so that something is left for the next, whoever comes."""

MESSAGE_BURST: Final = 512
"""Messages a socket may send at once; a client that comes back with all the streams a socket carries (256) may."""

BYTES_A_MESSAGE: Final = 16_384
"""A frame counts as one message more for each of these: reading it takes as long."""

LARGE_BYTES_A_SECOND: Final = 128 * 1024
"""A large request gets a second more for each of these."""

SPARE_FILES: Final = 128
"""Descriptors an edge needs beside its clients: Redis, the listener, logs."""


class Bucket:
    """A token bucket (https://en.wikipedia.org/wiki/Token_bucket) that remembers refusals, down to `-burst`.

    So one who goes on asking is refused for longer, and at the bottom is known as a flood. A rate of 0: no limit.
    """

    __slots__ = ("_at", "_level", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._level = burst
        self._at = now

    def __repr__(self) -> str:
        return f"<Bucket {self._level:.0f} of {self.burst:.0f} | {self.rate:g}/s>"

    def take(self, now: float, count: float = 1) -> bool:
        """False: it is empty. `now` in seconds by a monotonic clock."""
        if self.rate <= 0:
            return True
        self._level = min(self.burst, self._level + (now - self._at) * self.rate)
        self._at = now
        self._level = max(self._level - count, -self.burst)
        return self._level >= 0

    @property
    def is_flooded(self) -> bool:
        return self._level <= -self.burst

    @property
    def wait_s(self) -> float:
        """Until one more is taken, if nobody asks meanwhile."""
        return max(0.0, (1 - self._level) / self.rate) if self.rate > 0 else 0.0


class LargeBodies:
    """Requests beyond the usual size that are read at once, each of which may take a hundred MiB until it is stored."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = Counter[str]()  # by owner

    def __repr__(self) -> str:
        return f"<LargeBodies {self._held.total()} of {self._most}>"

    @contextlib.contextmanager
    def place(self, owner: str) -> Iterator[Place]:
        """A place that is taken only once it is asked for, and free again with the block."""
        place = Place(self, owner)
        try:
            yield place
        finally:
            place.leave()

    def enter(self, owner: str) -> None:
        """Raises TokenrelayError OVERLOADED where all places are taken, or half of them by this owner."""
        if self._held.total() >= self._most or self._held[owner] >= max(1, self._most // 2):
            raise TokenrelayError(
                "OVERLOADED", "too many large requests are arriving at once; try again", retry_after=2
            )
        self._held[owner] += 1

    def leave(self, owner: str) -> None:
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]


class Place:
    """One of `LargeBodies`, for one request."""

    def __init__(self, bodies: LargeBodies, owner: str) -> None:
        self._bodies = bodies
        self._owner = owner
        self.is_taken = False

    def take(self) -> None:
        """Again and again, but only one. Raises TokenrelayError OVERLOADED."""
        if not self.is_taken:
            self._bodies.enter(self._owner)
            self.is_taken = True

    def leave(self) -> None:
        if self.is_taken:
            self.is_taken = False
            self._bodies.leave(self._owner)


class Limits:
    """One per process."""

    def __init__(self, settings: Settings) -> None:
        self._message_rate = settings.message_rate
        self._buffered_most = MAX_BUFFERED_BODIES * settings.max_body_bytes
        self._arriving = Counter[str]()  # bytes of bodies that are arriving, by owner
        self._buffered = 0  # of all
        self._held = Counter[str]()  # connections by owner
        self.large_bodies = LargeBodies(settings.max_large_bodies)

    def __repr__(self) -> str:
        return f"<Limits {self._held.total()} connections of {len(self._held)} keys | {self._buffered} bytes arriving>"

    @contextlib.contextmanager
    def connection(self, owner: str, most: int | None) -> Iterator[None]:
        """While a key has one more connection open, of at most so many (0, None: any number). Raises TokenrelayError
        RATE_LIMIT when it has all it may have."""
        if most and self._held[owner] >= most:
            issue = f"this key has {most} connections here, as many as it may; close one or wait for one"
            raise TokenrelayError("RATE_LIMIT", issue, retry_after=1, limit=most, remaining=0, reset=1)
        self._held[owner] += 1
        try:
            yield
        finally:
            self._held[owner] -= 1
            if not self._held[owner]:
                del self._held[owner]

    def buffer(self, owner: str, size: int) -> None:
        """So many bytes of a body have come. Raises TokenrelayError OVERLOADED; then they are not counted.

        An owner may hold as much as stays free: alone half of all, one of three a quarter, and a newcomer never finds
        nothing left (dynamic thresholds: Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998).
        """
        held = self._arriving[owner] + size
        if held > self._buffered_most - self._buffered - size:
            raise TokenrelayError("OVERLOADED", "too many requests are arriving at once; try again", retry_after=1)
        self._arriving[owner] = held
        self._buffered += size

    def release(self, owner: str, size: int) -> None:
        self._buffered -= size
        self._arriving[owner] -= size
        if not self._arriving[owner]:
            del self._arriving[owner]

    def messages(self, now: float) -> Bucket:
        """For the messages of one socket."""
        return Bucket(self._message_rate, max(MESSAGE_BURST, self._message_rate), now)


def raise_if_crowded(scope: Mapping[str, Any]) -> None:
    """Raises TokenrelayError OVERLOADED for a connection beyond those that the process may have."""
    if scope.get("state", {}).get(CROWDED):
        raise TokenrelayError("OVERLOADED", "this edge has as many connections as it may", retry_after=2)


def too_many_messages(bucket: Bucket) -> TokenrelayError:
    seconds = max(1, round(bucket.wait_s))
    return TokenrelayError(
        "RATE_LIMIT", f"a socket may send {bucket.rate:g} messages a second", retry_after=seconds,
        limit=int(bucket.rate), remaining=0, reset=seconds,
    )  # fmt: skip


def connections(settings: Settings) -> int:
    """How many this process may have: what is set, but no more than the system lets it open files.

    Raises the soft limit to the hard one first (getrlimit(2)): many systems begin at 1,024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_connections + SPARE_FILES + settings.max_connections // 8
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return settings.max_connections
    return max(1, min(settings.max_connections, (soft - SPARE_FILES) * 8 // 9))
