"""SHARE: a worker stores what it saw of the models' health."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from tokenrelay.protocol.store import keys
from tokenrelay.protocol.store.scripts.script import Argument, script

SHARE: Final = script(
    "share",
    f"""
local now, stored = now_ms(), {{}}
for i = 3, #ARGV, 4 do
  local model, old, new, trial = unpack(ARGV, i, i + 3)
  local is_ours = new == ''
  if not is_ours and (redis.call('HGET', '{keys.HEALTH}', model) or '') == old then
    redis.call('HSET', '{keys.HEALTH}', model, new)
    redis.call('PEXPIREAT', '{keys.HEALTH}', now + ARGV[2])
    stored[#stored + 1] = model
    is_ours = true
  end
  if is_ours and trial ~= '' and redis.call('GET', trial) == ARGV[1] then redis.call('DEL', trial) end
end
return stored
""",
)


class Share(msgspec.Struct, frozen=True):
    """One model's record: `new` in place of `old` (b"": there was none), if it is still that. `new` b"": nothing is
    written. `ends_trial`: the caller's trial of it is over, once this is stored."""

    model: str
    old: bytes
    new: bytes
    ends_trial: bool = False


def share(worker_id: str, kept_ms: int, shares: Iterable[Share], names: keys.Names = keys.ONE_SERVER) -> list[Argument]:
    """Arguments of SHARE."""
    rows = (
        (item.model, item.old, item.new, names.for_all(keys.trial(item.model)) if item.ends_trial else "")
        for item in shares
    )
    return SHARE.arguments([], [worker_id, kept_ms, *(field for row in rows for field in row)])


def share_reply(reply: Any) -> frozenset[str]:
    """The models whose record was stored; of the others somebody else has written meanwhile."""
    return frozenset(item.decode() for item in reply)
