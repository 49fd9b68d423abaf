"""What stands in Redis, as the model has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from tokenrelay.protocol.lifecycle import ENDED
from tokenrelay.protocol.store.scripts import (
    NewStream,
)

Window: TypeAlias = tuple[int, int]
RETENTION_MS = 20_000
"""Below LIVE_MS, so that the two can be told apart."""

MAX_WAIT_MS = 60_000
LEASE_MS = 40_000
LOST, LATE, CANCELLED, UNREADABLE = b"lost", b"late", b"cancelled", b"unreadable"


@dataclass
class Stream:
    """What stands in Redis of one stream, whether or not it is under way."""

    id: str
    new: NewStream
    state: str = "queued"
    epoch: int = 0
    told: int | None = None
    cancel: bool = False
    suspect: bool = False
    deleted: bool = False
    broken: bool = False  # its metadata lacks what a worker needs
    entries: list[bytes] = field(default_factory=list)
    last: int = 0
    created: Window = (0, 0)
    since: Window = (0, 0)  # it waits
    lease: Window = (0, 0)  # it runs, until then
    ended: Window = (0, 0)
    notify: int | None = None  # tries; None: no webhook (any more)
    due: Window | None = None  # in the queue of webhooks
    meta_dies: Window = (0, 0)
    log_dies: Window = (0, 0)
    has_log: bool = False
    is_heard: bool = False  # somebody listens
    worker: str = ""

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    @property
    def size(self) -> int:
        return len(self.new.request)


@dataclass
class Parts:
    """Of a request, with or without a stream."""

    held: str
    owner: str
    size: int
    count: int
    until: Window
    is_written: bool = False
