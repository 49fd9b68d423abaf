"""APPEND: a worker appends entries to a log and publishes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from tokenrelay.protocol.store import keys
from tokenrelay.protocol.store.scripts.script import Argument, script

_BODY: Final = """
local log, meta = KEYS[1], KEYS[2]
local id, epoch, first, state, retention = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local told = ARGV[6]
local m = redis.call('HMGET', meta, 'epoch', 'last', 'state', 'cancel')
if not m[1] then return {'gone', 0, 0, 0} end
local last, cancel = tonumber(m[2]), m[4] and 1 or 0
local final = first + #ARGV - 7
if m[1] ~= epoch or (m[3] ~= 'running' and final > last) then return {'fenced', last, 0, cancel} end
if first > last + 1 then return {'hole', last, 0, cancel} end
if final <= last then return {'ok', last, -1, cancel} end
local new = last + 1
for n = new, final do redis.call('XADD', log, n .. '-0', 'e', ARGV[7 + n - first]) end
redis.call('HSET', meta, 'last', final)
if told ~= '' then redis.call('HSET', meta, 'told', told) end
local listeners = publish(name(id, 'live'), new .. '\\n' .. table.concat(ARGV, '', 7 + new - first))
"""

APPEND: Final = script(
    "append",
    f"""{_BODY}
settle(id, state, retention)
return {{'ok', final, listeners, cancel}}
""",
)
APPEND_MORE: Final = script(
    "append_more",
    f"""{_BODY}
if new == 1 then keep_log(id, retention) end
return {{'ok', final, listeners, cancel}}
""",
    is_short=True,
)
"""APPEND writes an end, as the last of its entries; APPEND_MORE entries without one."""


def append(
    stream_id: str,
    epoch: int,
    first_id: int,
    entries: Sequence[bytes],
    *,
    end_state: str,
    retention_ms: int,
    tells: bool = True,
) -> list[Argument]:
    """Arguments of APPEND, or of APPEND_MORE where no end is among them: entries `first_id`… of one generation;
    `end_state` is "" unless the last one is its end.

    `tells`: the generation's first entry that binds us is among them; it will not be started again.
    """
    which = APPEND if end_state else APPEND_MORE
    return [
        which.sha, 2, keys.log(stream_id), keys.meta(stream_id), stream_id, epoch, first_id, end_state, retention_ms,
        1 if tells else "", *entries,
    ]  # fmt: skip


class AppendReply(msgspec.Struct, frozen=True):
    """`ok`: all of it is in the log. `hole`: send again from `last_id` + 1. `fenced`: somebody else may write, stop.
    `gone`: the metadata is not there (Redis lost it). `listeners`: how many edges hear it; -1 when nothing was new.
    """

    outcome: Literal["ok", "hole", "fenced", "gone"]
    last_id: int
    listeners: int
    cancel_wanted: bool


def append_reply(reply: Any) -> AppendReply:
    return AppendReply(reply[0].decode(), int(reply[1]), int(reply[2]), bool(reply[3]))
