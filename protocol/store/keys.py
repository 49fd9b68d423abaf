"""The names of all keys and channels in Redis; does not know how to talk to it.

tr:{ID}:log     stream   one entry an event, ids 1-0, 2-0, …
tr:{ID}:meta    hash     owner, state, epoch, last id, request while it runs
tr:{ID}:live    channel  what was just appended
tr:{ID}:part:N  string   the bytes of a request's part N, until the generation ends
tr:waiting      zset     arq's queue: generations no worker has taken, by the time they came (ms)
tr:waiting:SET  zset     those of them that the same models may answer, in the same order
tr:needs        hash     SET → the ids of those models' rows (JSON)
tr:queued       hash     how much waits: bytes of all, number and bytes of each owner
tr:leases       zset     generations a worker has taken, by the time its lease ends (ms)
tr:ended        zset     ended streams whose webhook is to be sent, by the time it is due (ms)
tr:ended:dropped string  ends that found that queue full, since somebody asked
tr:owner:NAME   zset     a key's streams, by the time they were made (ms)
tr:active:NAME  zset     a key's streams that have not ended, by the time they were made (ms)
tr:{o:NAME}:echo:CALL string  a turn as its provider wants it back, by the id of its first call
tr:rate:NAME    string   the time until which a key's starts of the last minute count (ms)
tr:idem:HASH    hash     an Idempotency-Key → its stream
tr:chat:HASH    string   a chat of a front → its newest stream
tr:parts        zset     what the parts of each request take, by the time it is given up (ms)
tr:parts:bytes  hash     their sum, of all and of each owner
tr:workers      hash     worker → what it offers and until when
tr:health       hash     model → its recent health, for all workers
tr:trial:MODEL  string   the worker that tries a model whose circuit is half open
tr:secret:PERIOD string  signs the tickets of a period; shared by all edges
tr:ready        string   an edge was asked whether Redis takes writes
tr:wake         channel  something is waiting, and whose turn it is
tr:cancel       channel  the id of a running stream to stop
tr:probe:ID     channel  an edge's message to itself: the live feed works
arq:job:ID       string   arq's own

In a cluster a stream's names begin with `tr:{TAG}:ID:` (arq's job is `tr:{TAG}:ID:job`), those of its partition's
queue with `tr:{TAG}:` (`tr:{TAG}:waiting`), an owner's with `tr:{o:NAME}:` (`active`, `streams`, `rate`, `idem:HASH`,
`chat:HASH`), those that are one for all with `tr:{g}:` (`workers`, `health`, `trial:MODEL`, `secret:PERIOD`, `edges`,
`shape`). Every slot has a name that never exists, `tr:{TAG}:never`: see `scripts.script`.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

import msgspec

from tokenrelay.protocol.store import partitions

WAITING: Final = "tr:waiting"
NEEDS: Final = "tr:needs"
QUEUED: Final = "tr:queued"
ACTIVE: Final = "tr:active:"
LEASES: Final = "tr:leases"
ENDED: Final = "tr:ended"
ENDED_DROPPED: Final = "tr:ended:dropped"
PARTS: Final = "tr:parts"
PARTS_BYTES: Final = "tr:parts:bytes"
WORKERS: Final = "tr:workers"
HEALTH: Final = "tr:health"
READY: Final = "tr:ready"
SHAPE: Final = "tr:shape"
EDGES: Final = "tr:edges"
WAKE: Final = "tr:wake"
CANCEL: Final = "tr:cancel"
ARQ_JOB: Final = "arq:job:"
STREAM: Final = "tr:"

_STREAM_ID: Final = re.compile(r"[A-Za-z0-9_-]{8,64}\Z")


def is_stream_id(text: str) -> bool:
    """True for what can be a stream's id: letters, digits, `-`, `_`, 8 to 64 of them. Nothing else reaches a key."""
    return _STREAM_ID.match(text) is not None


def _base(stream_id: str) -> str:
    tag = partitions.tag_of(stream_id)
    return f"tr:{{{tag}}}:{stream_id}" if tag else f"tr:{{{stream_id}}}"


def log(stream_id: str) -> str:
    return f"{_base(stream_id)}:log"


def meta(stream_id: str) -> str:
    return f"{_base(stream_id)}:meta"


def live(stream_id: str) -> str:
    return f"{_base(stream_id)}:live"


def part(stream_id: str, number: int) -> str:
    return f"{_base(stream_id)}:part:{number}"


def within(tag: str, name: str) -> str:
    """What one server calls `name` (`tr:…`), in a partition; there in `partitions.ONE_SERVER` it keeps its name."""
    return f"tr:{{{tag}}}:{name.removeprefix(STREAM)}" if tag else name


def never(tag: str) -> str:
    """The name in a cluster's slot under which nothing ever is."""
    return f"tr:{{{tag}}}:never"


def waiting_for(needs: str) -> str:
    """Those that wait for one of these models. SET is a SHA-1, as scripts can make it too."""
    return f"{WAITING}:{hashlib.sha1(needs.encode()).hexdigest()}"  # noqa: S324  it only tells sets apart


def owner(name: str) -> str:
    return f"tr:owner:{digest(name)}"


def active(name: str) -> str:
    return f"tr:active:{digest(name)}"


def rate(name: str) -> str:
    return f"tr:rate:{digest(name)}"


def echo(owner_name: str, call_id: str) -> str:
    return f"tr:{{o:{digest(owner_name)}}}:echo:{digest(call_id)}"


def idempotency(owner_name: str, key: str) -> str:
    return f"tr:idem:{digest(owner_name + chr(0) + key)}"


def chat(owner_name: str, chat_id: str) -> str:
    return f"tr:chat:{digest(owner_name + chr(0) + chat_id)}"


def probe(edge_id: str) -> str:
    return f"tr:probe:{edge_id}"


def secret(period: int) -> str:
    return f"tr:secret:{period}"


def trial(model: str) -> str:
    return f"tr:trial:{digest(model)}"


def digest(text: str) -> str:
    """Client text never becomes part of a key as it is."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class Names(msgspec.Struct, frozen=True):
    """The names that depend on what keeps them: one server, or a cluster, where an owner has a slot and what is one
    for all has another."""

    is_cluster: bool = False

    def __repr__(self) -> str:
        return f"<Names of {'a cluster' if self.is_cluster else 'one server'}>"

    def owner(self, name: str) -> str:
        return self._of_owner(name, "streams") if self.is_cluster else owner(name)

    def active(self, name: str) -> str:
        return self._of_owner(name, "active") if self.is_cluster else active(name)

    def rate(self, name: str) -> str:
        return self._of_owner(name, "rate") if self.is_cluster else rate(name)

    def idempotency(self, owner_name: str, key: str) -> str:
        made = idempotency(owner_name, key)
        return self._of_owner(owner_name, made.removeprefix(STREAM)) if self.is_cluster else made

    def chat(self, owner_name: str, chat_id: str) -> str:
        made = chat(owner_name, chat_id)
        return self._of_owner(owner_name, made.removeprefix(STREAM)) if self.is_cluster else made

    def for_all(self, name: str) -> str:
        """Of what is one for all: `WORKERS`, `HEALTH`, `READY`, `secret(…)`, `trial(…)`."""
        return within(partitions.GLOBAL, name) if self.is_cluster else name

    def _of_owner(self, name: str, what: str) -> str:
        return f"tr:{{o:{digest(name)}}}:{what}"


ONE_SERVER: Final = Names()
CLUSTER: Final = Names(is_cluster=True)
