"""RENEW: a living worker extends its leases."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from tokenrelay.protocol.store import keys
from tokenrelay.protocol.store.scripts.script import TOMBSTONE_MS, Argument, script

RENEW: Final = script(
    "renew",
    f"""
local lease, retention, lost, cancelled, heard = now_ms() + tonumber(ARGV[1]), tonumber(ARGV[2]), {{}}, {{}}, {{}}
for i = 3, #ARGV, 2 do
  local id, meta = ARGV[i], name(ARGV[i], 'meta')
  local m = fields(id, 'epoch', 'state', 'cancel', 'suspect')
  if not m or m[1] ~= ARGV[i + 1] or m[2] ~= 'running' then
    lost[#lost + 1] = id
  else
    if m[4] then redis.call('HDEL', meta, 'suspect') end
    redis.call('ZADD', '{keys.LEASES}', lease, id)
    redis.call('PEXPIRE', meta, retention + {TOMBSTONE_MS})
    keep_log(id, retention)
    if m[3] then cancelled[#cancelled + 1] = id end
    local listeners = redis.pcall('PUBSUB', NUMSUB, name(id, 'live'))
    if listeners.err or listeners[2] > 0 then heard[#heard + 1] = id end
  end
end
return {{lost, cancelled, heard}}
""",
)


def renew(lease_ms: int, retention_ms: int, held: Iterable[tuple[str, int]]) -> list[Argument]:
    """Arguments of RENEW; `held` are (stream id, epoch). The caller bounds it to `MAX_BATCH_ENTRIES`."""
    return RENEW.arguments([], [lease_ms, retention_ms, *(item for pair in held for item in pair)])


class RenewReply(msgspec.Struct, frozen=True):
    """Stream ids: no longer ours, to be stopped, listened to by at least one edge."""

    lost: frozenset[str]
    cancelled: frozenset[str]
    heard: frozenset[str]


def renew_reply(reply: Any) -> RenewReply:
    return RenewReply(*(frozenset(item.decode() for item in part) for part in reply))
