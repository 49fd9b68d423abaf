"""CANCEL: the owner of a stream stops it."""

from __future__ import annotations

from typing import Final

from tokenrelay.protocol.store import keys
from tokenrelay.protocol.store.scripts.script import Argument, script

CANCEL: Final = script(
    "cancel",
    f"""
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return '' end
if state == 'queued' then
  finish(ARGV[1], ARGV[2], 'cancelled', tonumber(ARGV[3]))
  return 'cancelled'
end
if state ~= 'running' then return state end
redis.call('HSET', KEYS[1], 'cancel', 1)
publish('{keys.CANCEL}', ARGV[1])
return 'cancelling'
""",
)


def cancel(stream_id: str, end: bytes, retention_ms: int) -> list[Argument]:
    """Arguments of CANCEL; `end` is the entry to write if nobody has taken it yet. Reply: the public state, b"" if
    gone."""
    return CANCEL.arguments([keys.meta(stream_id)], [stream_id, end, retention_ms])
