"""RELEASE: a stopping worker requeues generations with no output yet."""

from __future__ import annotations

from typing import Final

from tokenrelay.protocol.store import keys
from tokenrelay.protocol.store.scripts.script import Argument, script

RELEASE: Final = script(
    "release",
    """
local m = redis.call('HMGET', KEYS[1], 'epoch', 'state', 'last', 'cancel', 'told')
if m[1] ~= ARGV[2] or m[2] ~= 'running' or has_told(m[3], m[5]) or m[4] then return 0 end
requeue(ARGV[1])
return 1
""",
)


def release(stream_id: str, epoch: int) -> list[Argument]:
    """Arguments of RELEASE; its reply is 1 when the generation waits again, 0 when it must be ended instead."""
    return RELEASE.arguments([keys.meta(stream_id)], [stream_id, epoch])
