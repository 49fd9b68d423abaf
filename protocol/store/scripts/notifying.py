"""DUE and NOTIFIED: an edge takes ended streams whose webhook is to be sent, and says what became of each.

the end is written ─▶ `tr:ended`, due now ─▶ DUE (the edge has it for a lease) ─▶ NOTIFIED: gone
                            ▲                  └─ the edge dies: due again ─┐      └─ or due again later
                            └───────────────────────────────────────────────┘
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tokenrelay.protocol.store import keys
from tokenrelay.protocol.store.scripts.script import Argument, script

DUE: Final = script(
    "due",
    f"""
local now, taken = now_ms(), {{}}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', '{keys.ENDED}', '-inf', now, 'LIMIT', 0, ARGV[1])) do
  local m = fields(id, 'notify', 'ended', 'deleted')
  if not m or not is_whole(m[1]) or not is_whole(m[2]) or m[3] then
    redis.call('ZREM', '{keys.ENDED}', id)
  else
    redis.call('ZADD', '{keys.ENDED}', now + ARGV[2], id)
    taken[#taken + 1] = {{id, redis.call('HINCRBY', name(id, 'meta'), 'notify', 1), now - m[2]}}
  end
end
local dropped = redis.call('GET', '{keys.ENDED_DROPPED}')
if dropped then redis.call('DEL', '{keys.ENDED_DROPPED}') end
return {{taken, redis.call('ZCARD', '{keys.ENDED}'), tonumber(dropped or 0)}}
""",
)

NOTIFIED: Final = script(
    "notified",
    f"""
local id, again, retention = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
if again >= 0 then return redis.call('ZADD', '{keys.ENDED}', 'XX', 'CH', now_ms() + again, id) end
if redis.call('ZREM', '{keys.ENDED}', id) == 0 then return 0 end
local m = fields(id, 'ended')
if not m or not is_whole(m[1]) then return 1 end
redis.call('HDEL', name(id, 'meta'), 'notify')
-- What had stayed for the webhook is readable for the rest of its retention.
local left = m[1] + retention - now_ms()
if left > 0 then redis.call('PEXPIRE', name(id, 'log'), left) else redis.call('DEL', name(id, 'log')) end
return 1
""",
)


class Ended(msgspec.Struct, frozen=True):
    """A stream whose webhook is ours to send; `tries` counts from 1, `age_ms` since its end, by Redis's clock."""

    stream_id: str
    tries: int
    age_ms: int


class DueReply(msgspec.Struct, frozen=True):
    """What was taken, how many wait in all (those taken among them), how many ends found the queue full."""

    taken: list[Ended]
    waiting: int
    dropped: int


def due(most: int, lease_ms: int) -> list[Argument]:
    """Arguments of DUE: at most so many, each ours for the lease."""
    return DUE.arguments([], [most, lease_ms])


def due_reply(reply: Any) -> DueReply:
    taken = [Ended(row[0].decode(), int(row[1]), max(0, int(row[2]))) for row in reply[0]]
    return DueReply(taken, int(reply[1]), int(reply[2]))


def notified(stream_id: str, again_ms: int | None, retention_ms: int) -> list[Argument]:
    """Arguments of NOTIFIED; `again_ms` None: it is done with. Its reply is 0 when somebody else was done with it."""
    return NOTIFIED.arguments([], [stream_id, -1 if again_ms is None else again_ms, retention_ms])
