"""REAP: any edge ends or requeues what is overdue."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tokenrelay.protocol.lifecycle import MAX_ATTEMPTS
from tokenrelay.protocol.store import keys
from tokenrelay.protocol.store.scripts.script import SUSPICION_MS, Argument, script

REAP: Final = script(
    "reap",
    f"""
local now, most, lost, retention = now_ms(), ARGV[1], 0, tonumber(ARGV[5])
local again = 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', '{keys.LEASES}', '-inf', now, 'LIMIT', 0, most)) do
  local m = fields(id, 'state', 'epoch', 'last', 'cancel', 'suspect', 'told')
  if not m or m[1] ~= 'running' then
    leave_queue(id)
  elseif not m[5] then
    redis.call('HSET', name(id, 'meta'), 'suspect', 1)
    redis.call('ZADD', '{keys.LEASES}', now + {SUSPICION_MS}, id)
  elseif not has_told(m[3], m[6]) and is_whole(m[2]) and tonumber(m[2]) < {MAX_ATTEMPTS} and not m[4] then
    requeue(id)
    again = again + 1
  else
    finish(id, ARGV[2], 'failed', retention)
    lost = lost + 1
  end
end
drop_overdue(most)
local late = 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', '{keys.WAITING}', '-inf', now - ARGV[4], 'LIMIT', 0, most)) do
  local m = fields(id, 'state')
  if m and m[1] == 'queued' then
    finish(id, ARGV[3], 'failed', retention)
    late = late + 1
  else
    leave_queue(id)
  end
end
return {{lost, again, late, over}}
""",
)


def reap(most: int, lost: bytes, late: bytes, max_wait_ms: int, retention_ms: int) -> list[Argument]:
    """Arguments of REAP; `lost` and `late` are the entries that end a generation whose worker is gone, or that nobody
    took within `max_wait_ms`."""
    return REAP.arguments([], [most, lost, late, max_wait_ms, retention_ms])


class ReapReply(msgspec.Struct, frozen=True):
    """How many were ended as lost, are waiting again, were ended as late. `over`, in a cluster: the ended streams, each
    with the name of the set of active streams that it is still in."""

    lost: int
    again: int
    late: int
    over: tuple[tuple[str, str], ...] = ()


def reap_reply(reply: Any) -> ReapReply:
    lost, again, late, *over = reply
    told = [item.decode() for item in over[0]] if over else []
    return ReapReply(int(lost), int(again), int(late), tuple(zip(told[::2], told[1::2], strict=True)))
