"""FORGET: the owner deletes a stream: it is no longer found, and the log of one that has ended goes at once."""

from __future__ import annotations

from typing import Final

from tokenrelay.protocol.store import keys
from tokenrelay.protocol.store.scripts.script import Argument, script

FORGET: Final = script(
    "forget",
    f"""
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return 0 end
redis.call('HSET', KEYS[1], 'deleted', 1)
redis.call('ZREM', '{keys.ENDED}', ARGV[1])
-- The log of one that still runs stays until its end: its worker would take a log without entries for a gap.
if state ~= 'queued' and state ~= 'running' then redis.call('DEL', KEYS[2]) end
return 1
""",
)


def forget(stream_id: str) -> list[Argument]:
    """Arguments of FORGET; its reply is 1, or 0 where there is no such stream."""
    return FORGET.arguments([keys.meta(stream_id), keys.log(stream_id)], [stream_id])
