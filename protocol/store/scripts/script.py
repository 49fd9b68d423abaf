"""The parts of every Lua script: its two texts, their digests, and the functions that all texts begin with.

All use Redis's clock, so that the clocks of hosts may differ. A script is written once, with the names of one server;
the text for a cluster is made of it. That one begins with `#!lua`, so that a slot of another server is refused and not
only in the end; it takes the slot from its first key, and the last of its keys never exists: while its slot is moved
key by key, a script one of whose keys is missing is refused as a whole before it runs. A script that failed midway
would keep what it wrote. Redis 6.2 does not know `#!lua`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

import msgspec

from tokenrelay.protocol.lifecycle import TOLD_NOTHING
from tokenrelay.protocol.store import keys

Argument: TypeAlias = bytes | str | int

TOMBSTONE_MS: Final = 24 * 3600 * 1000
"""How long the metadata outlives the log, so that an expired stream answers 410 and not 404. Also why the counter
(`last`) can never die before the log: XADD with an explicit id would then fail for ever."""

LIVE_MS: Final = 30_000
"""What a log that is being written lives on after its last renewal, however short its retention: longer than it takes
until a dead worker's generation has been ended."""

LEASE_MS: Final = 4_500
RENEW_EVERY_S: Final = 1.5
SUSPICION_MS: Final = 2_000
"""A lease that ran out is only suspect at first, and judged this much later: after a pause of Redis itself every
lease has
run out, and the workers get the time to say that they live. Lease, suspicion and two looks a second apart are under
10 s."""

NOTIFY_MS: Final = TOMBSTONE_MS
"""How long a webhook is tried, and so how long at most a log stays for it beyond its retention."""

MAX_ENDED: Final = 50_000
"""Ends that may wait for their webhook; one more is dropped and counted: each keeps its log in Redis."""

MAX_BATCH_ENTRIES: Final = 500
MAX_BATCH_BYTES: Final = 256 * 1024
"""One append. Lua's `unpack` takes about 8,000 values, and Redis cuts a subscriber that lags by 8 MiB."""


class Script(msgspec.Struct, frozen=True):
    """A Lua text and its SHA-1 as EVALSHA wants it (https://redis.io/docs/latest/commands/evalsha/); the same for a
    cluster."""

    name: str
    text: str
    sha: str
    cluster_text: str = ""
    cluster_sha: str = ""

    def arguments(self, key_names: Sequence[str], args: Iterable[Argument]) -> list[Argument]:
        """What follows EVALSHA (or, with the text in place of the sha, EVAL)."""
        return [self.sha, len(key_names), *key_names, *args]

    def in_cluster(self, arguments: Sequence[Argument], tag: str) -> list[Argument]:
        """What the arguments for one server are in a slot of a cluster."""
        count = int(arguments[1])
        names, args = arguments[2 : 2 + count], arguments[2 + count :]
        return [self.cluster_sha, count + 1, *names, keys.never(tag), *args]


_OF_ONE_SERVER: Final = f"""
local PUBLISH, NUMSUB = 'PUBLISH', 'NUMSUB'
local function name(id, part) return '{keys.STREAM}{{' .. id .. '}}:' .. part end
local function arq_job(id) return '{keys.ARQ_JOB}' .. id end
-- Of whom a set of active streams is, by its name.
local function whose(active) return string.match(active, '^{keys.ACTIVE}(.+)$') end
local over = {{}}  -- empty here, see below
local function leave_active(active, id) redis.pcall('ZREM', active, id) end
"""

_OF_A_CLUSTER: Final = """#!lua
local AT = string.match(KEYS[1], '^tr:{[^}]*}:')
local PUBLISH, NUMSUB = 'SPUBLISH', 'SHARDNUMSUB'
local function name(id, part) return AT .. id .. ':' .. part end
local function arq_job(id) return AT .. id .. ':job' end
local function whose(active) return string.match(active, '^tr:{o:(.+)}:active$') end
-- The owner's set is in another slot: whoever asked takes the stream out of it, told by `over` where it cannot know.
local over = {}
local function leave_active(active, id)
  over[#over + 1] = id
  over[#over + 1] = active
end
"""

_SHORT_PRELUDE: Final = f"""
local function keep_log(id, retention) redis.call('PEXPIRE', name(id, 'log'), math.max(retention, {LIVE_MS})) end
-- Nobody must be left with half a script because one channel is closed to us: who listens finds it in the log.
local function publish(channel, message)
  return tonumber(redis.pcall(PUBLISH, channel, message)) or 0
end
"""

_PRELUDE: Final = f"""
{_SHORT_PRELUDE}
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
-- Fields of a generation's metadata; nil where something else stands under its name.
local function fields(id, ...)
  local found = redis.pcall('HMGET', name(id, 'meta'), ...)
  if found.err then return nil end
  return found
end
local function is_whole(value) return value and #value < 16 and string.match(value, '^%d+$') end
-- Whether a client has been told anything that binds us. A worker of an earlier version kept no word of it: then all
-- that follows `started` does.
local function has_told(last, told)
  if told then return tonumber(told) ~= 0 end
  return not is_whole(last) or tonumber(last) > {TOLD_NOTHING}
end
-- What waits, in numbers: bytes of all, and number and bytes of each owner. START begins anew when nothing waits.
local function count_waiting(id, by)
  local m = fields(id, 'active')
  local who = m and m[1] and whose(m[1])
  if not who then return end
  local size = redis.call('HSTRLEN', name(id, 'meta'), 'request')
  local function count(field, much)
    if redis.call('HINCRBY', '{keys.QUEUED}', field, string.format('%d', by * much)) <= 0 then
      redis.call('HDEL', '{keys.QUEUED}', field)
    end
  end
  count('bytes', size)
  count(who .. ':n', 1)
  count(who .. ':bytes', size)
end
-- Those that wait, all of them in order; and the same apart by the models that may answer (`needs`), so that a worker
-- finds its oldest however many wait for others. A start of an earlier version says nothing of models: any worker's.
local function stand_in_set(id, since, needs)
  local set = redis.sha1hex(needs)
  redis.call('HSET', '{keys.NEEDS}', set, needs)
  redis.call('ZADD', '{keys.WAITING}:' .. set, since, id)
  redis.call('PEXPIRE', '{keys.WAITING}:' .. set, {TOMBSTONE_MS})  -- what a claim of an earlier version left in it
end
local function wait(id, now)
  if redis.call('ZADD', '{keys.WAITING}', now, id) > 0 then count_waiting(id, 1) end
  local needs = redis.call('HGET', name(id, 'meta'), 'needs')
  if needs then stand_in_set(id, now, needs) end
end
local function leave_waiting(id)
  if redis.call('ZREM', '{keys.WAITING}', id) > 0 then count_waiting(id, -1) end
  local m = fields(id, 'needs')
  if not (m and m[1]) then return end
  local set = redis.sha1hex(m[1])
  redis.call('ZREM', '{keys.WAITING}:' .. set, id)
  if redis.call('EXISTS', '{keys.WAITING}:' .. set) == 0 then redis.call('HDEL', '{keys.NEEDS}', set) end
end
-- Everything that a generation leaves behind in the queue.
local function leave_queue(id)
  leave_waiting(id)
  redis.call('ZREM', '{keys.LEASES}', id)
  redis.call('DEL', arq_job(id))
end
-- Parts of a request, as `holding.held_parts` names them: bytes, number, owner, id; nil where it is no such name.
local function parts_of(held)
  local bytes, count, owner, id = string.match(held, '^(%d+):(%d+):(%x+):([%w_-]+)$')
  return tonumber(bytes), tonumber(count), owner, id
end
local function drop_parts(held)
  local bytes, count, owner, id = parts_of(held)
  if not bytes then return end
  for n = 0, count - 1 do redis.call('DEL', name(id, 'part:' .. n)) end
  if redis.call('ZREM', '{keys.PARTS}', held) == 0 then return end
  for _, whose in ipairs({{'all', owner}}) do
    if redis.call('HINCRBY', '{keys.PARTS_BYTES}', whose, -bytes) <= 0 then
      redis.call('HDEL', '{keys.PARTS_BYTES}', whose)
    end
  end
end
local function drop_overdue(most)
  for _, held in ipairs(redis.call('ZRANGEBYSCORE', '{keys.PARTS}', '-inf', now_ms(), 'LIMIT', 0, most)) do
    drop_parts(held)
  end
end
-- The end is to be told to the operator's webhook; the log stays until it was.
local function announce(id, retention)
  if redis.call('ZCARD', '{keys.ENDED}') >= {MAX_ENDED} then
    redis.call('INCR', '{keys.ENDED_DROPPED}')
    return
  end
  redis.call('ZADD', '{keys.ENDED}', now_ms(), id)
  redis.call('PEXPIRE', name(id, 'log'), math.max(retention, {NOTIFY_MS}))
end
-- The end of a generation: state, no prompt any more, retention begins.
local function settle(id, state, retention)
  local meta = name(id, 'meta')
  leave_waiting(id)
  redis.call('HSET', meta, 'state', state, 'ended', now_ms())
  local left_over = redis.call('HMGET', meta, 'active', 'parts', 'notify', 'deleted')
  if left_over[1] then leave_active(left_over[1], id) end
  if left_over[2] then drop_parts(left_over[2]) end
  redis.call('HDEL', meta, 'request', 'active', 'context', 'parts', 'told', 'needs')
  -- Written anew: a hash that once had a long value keeps the large form, for the day it lives on.
  local left = redis.call('HGETALL', meta)
  if #left < 1000 then
    redis.call('DEL', meta)
    redis.call('HSET', meta, unpack(left))
  end
  redis.call('PEXPIRE', meta, retention + {TOMBSTONE_MS})
  redis.call('PEXPIRE', name(id, 'log'), retention)
  if left_over[3] and not left_over[4] then announce(id, retention) end
  leave_queue(id)
end
-- An end written by somebody who is not the generation's worker: the next epoch, so that the worker is fenced.
-- Whatever stands in its metadata, it is over afterwards: nothing that cannot be read may come back for ever.
local function finish(id, entry, state, retention)
  local meta, log = name(id, 'meta'), name(id, 'log')
  local m = fields(id, 'epoch', 'last')
  if not m then return leave_queue(id) end
  if not is_whole(m[1]) then redis.call('HSET', meta, 'epoch', 0) end
  local last = is_whole(m[2]) and tonumber(m[2]) or 0
  if not is_whole(m[2]) then
    local newest = redis.pcall('XREVRANGE', log, '+', '-', 'COUNT', 1)
    if newest[1] then last = tonumber(string.match(newest[1][1], '^%d+')) end
  end
  last = last + 1
  if not redis.pcall('XADD', log, last .. '-0', 'e', entry).err then
    redis.call('HSET', meta, 'last', last)
    publish(name(id, 'live'), last .. '\\n' .. entry)
  end
  redis.call('HINCRBY', meta, 'epoch', 1)
  settle(id, state, retention)
end
-- Back to those who wait, to be taken by another worker with the next epoch; until then the state fences the last one.
local function requeue(id)
  redis.call('HSET', name(id, 'meta'), 'state', 'queued')
  redis.call('HDEL', name(id, 'meta'), 'suspect', 'told')
  redis.call('ZREM', '{keys.LEASES}', id)
  wait(id, now_ms())
  publish('{keys.WAKE}', '')
end
"""


_NAME: Final = re.compile(r"'tr:([a-z:]+)'")


def script(name: str, body: str, *, is_short: bool = False) -> Script:
    """The script of that name; its texts are the prelude and `body`. Short: with the few functions that writing a token
    needs; Redis makes every function anew for each call, and they cost it a quarter of an append."""
    whole = (_SHORT_PRELUDE if is_short else _PRELUDE) + body
    text = _OF_ONE_SERVER + whole
    cluster_text = _OF_A_CLUSTER + _NAME.sub(r"(AT .. '\1')", whole)
    return Script(name, text, _sha(text), cluster_text, _sha(cluster_text))


def _sha(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()  # noqa: S324  Redis names scripts by SHA-1
