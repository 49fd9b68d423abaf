"""START: an edge creates a stream and queues its generation."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from tokenrelay.protocol.store import keys
from tokenrelay.protocol.store.scripts.script import TOMBSTONE_MS, Argument, script

LOOKED_AT: Final = 16
"""Streams of a key at its limit that a refused start looks at: are they still under way?"""

_IS_NEW: Final = """
-- The edge asks again when the reply was lost on the way: what it made must not be made anew under a running worker.
if redis.call('EXISTS', meta) == 1 then return {'started', id, -1, 0} end
-- A Redis without memory refuses commands that need some, but only until a script has written: ask it first, by a
-- command that needs memory and changes nothing (https://redis.io/docs/latest/commands/setrange/).
redis.call('SETRANGE', meta, 0, '')
"""
_HAS_ROOM: Final = f"""
local _, parts = parts_of(held)
for n = 0, (parts or 0) - 1 do
  if redis.call('EXISTS', name(id, 'part:' .. n)) == 0 then return {{'lost', id}} end
end
local waiting = redis.call('ZCARD', '{keys.WAITING}')
if waiting >= max_waiting then return {{'overloaded', waiting}} end
if waiting < 1 then redis.call('DEL', '{keys.QUEUED}') end  -- what was counted for streams that Redis lost
local most_bytes, share, size = tonumber(ARGV[10]), ARGV[11] / 100, tonumber(ARGV[12])
local who = whose(active)
local queued = redis.call('HMGET', '{keys.QUEUED}', 'bytes', who .. ':n', who .. ':bytes')
if most_bytes > 0 and waiting > 0 and (queued[1] or 0) + size > most_bytes then return {{'overloaded', waiting}} end
if share < 1 and queued[2] then
  local is_over = queued[2] + 1 > math.floor(max_waiting * share)
  if is_over or (most_bytes > 0 and (queued[3] or 0) + size > most_bytes * share) then
    return {{'share', tonumber(queued[2])}}
  end
end
"""
RATE: Final = """
-- The generic cell rate algorithm (ITU-T I.371): `due` is when the bucket would be full again; a minute's worth may
-- come at once.
local remaining, reset = -1, 0
if per_minute > 0 then
  local step = 60000 / per_minute
  local due = math.max(tonumber(redis.call('GET', rate) or now), now) + step
  if due - now > 60000 + 0.001 then return {'limited', per_minute, math.ceil(due - now - 60000)} end
  redis.call('SET', rate, string.format('%.3f', due), 'PX', math.ceil(due - now))
  remaining, reset = math.floor((60000 - (due - now)) / step + 0.001), math.ceil(due - now)
end
"""
ENLIST: Final = f"""
redis.call('ZADD', active, now, id)
redis.call('PEXPIRE', active, retention + {TOMBSTONE_MS})
if chat ~= '' then redis.call('SET', chat, id, 'PX', retention + {TOMBSTONE_MS}) end
redis.call('ZADD', owner, now, id)
redis.call('ZREMRANGEBYRANK', owner, 0, -1001)
redis.call('PEXPIRE', owner, retention + {TOMBSTONE_MS})
if idem ~= '' then
  redis.call('HSET', idem, 'id', id, 'fingerprint', fingerprint)
  redis.call('PEXPIRE', idem, retention + {TOMBSTONE_MS})
end
"""
_QUEUE: Final = f"""
redis.call('HSET', meta, 'state', 'queued', 'epoch', 0, 'last', 0, 'created', now, 'active', active, unpack(ARGV, 14))
redis.call('PEXPIRE', meta, retention + {TOMBSTONE_MS})
if parts then
  redis.call('HSET', meta, 'parts', held)
  redis.call('ZADD', '{keys.PARTS}', now + retention + {TOMBSTONE_MS}, held)
  for n = 0, parts - 1 do redis.call('PEXPIRE', name(id, 'part:' .. n), retention + {TOMBSTONE_MS}) end
end
redis.call('SET', arq_job(id), ARGV[5], 'PX', ARGV[6])
wait(id, now)
redis.call('PEXPIRE', '{keys.QUEUED}', retention + {TOMBSTONE_MS})
publish('{keys.WAKE}', ARGV[13])
"""

START: Final = script(
    "start",
    f"""
local meta, owner, active, rate, idem, chat = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local id, fingerprint, max_waiting, retention = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local most_active, per_minute, held = tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9]
{_IS_NEW}
if idem ~= '' then
  local known = redis.call('HMGET', idem, 'id', 'fingerprint')
  if known[1] and redis.call('EXISTS', name(known[1], 'meta')) == 1 then
    if known[2] == fingerprint then return {{'existing', known[1]}} end
    return {{'conflict', known[1]}}
  end
end
{_HAS_ROOM}
local now = now_ms()
if most_active > 0 and redis.call('ZCARD', active) >= most_active then
  -- Before refusing: those that Redis lost or that expired without an end do not count. A few are looked at each time,
  -- and then stand last: all have their turn, and a refusal costs the same however many there are.
  for _, known in ipairs(redis.call('ZRANGE', active, 0, {LOOKED_AT - 1})) do
    local m = fields(known, 'state')
    local state = m and m[1]
    if state ~= 'queued' and state ~= 'running' then
      redis.call('ZREM', active, known)
    else
      redis.call('ZADD', active, now, known)
    end
  end
  if redis.call('ZCARD', active) >= most_active then return {{'busy', most_active}} end
end
{RATE}
{ENLIST}
{_QUEUE}
return {{'started', id, remaining, reset}}
""",
)

START_RESERVED: Final = script(
    "start_reserved",
    f"""
local meta, active = KEYS[1], ARGV[7]
local id, max_waiting, retention, held = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[9]
{_IS_NEW}
{_HAS_ROOM}
local now = now_ms()
{_QUEUE}
return {{'started', id, -1, 0}}
""",
)
"""In a cluster, after `reserving.RESERVE`: the part of START that is not the owner's."""


class NewStream(msgspec.Struct, frozen=True):
    """What an edge writes for a new generation. `request` is msgpack; it leaves Redis when the generation ends."""

    stream_id: str
    owner: str
    model: str
    request: bytes
    on_disconnect: str
    idempotency_key: str | None
    fingerprint: str
    context: bytes = b""  # see `store.context`
    parts: str = ""  # what `holding.held_parts` calls the bytes beside the request; "": there are none
    front: bytes = b""  # what the front that was asked needs for reading the log; it has no text and stays
    metadata: bytes = b""  # msgpack of what the caller gave; it stays
    must_notify: bool = False  # the end goes to the operator's webhook
    chat_id: str | None = None  # of a front whose clients name a chat, not a stream
    turn: int = 0  # which worker claims it at once: `workers/dispatch/turns.py`
    needs: str = ""  # see `claiming.needs`; "": any worker may take it


class Limits(msgspec.Struct, frozen=True):
    """What may be: `max_waiting` generations of all keys, whose requests have `max_bytes` together; of one key
    `max_active` streams that have not ended, `per_minute` starts, 0 for no limit of that kind, and `share_percent` of
    what may wait."""

    max_waiting: int
    max_active: int = 0
    per_minute: int = 0
    max_bytes: int = 0
    share_percent: int = 100


def start(new: NewStream, limits: Limits, *, job: bytes, job_ttl_ms: int, retention_ms: int) -> list[Argument]:
    """Arguments of START. `job` is arq's own serialised job."""
    idem = keys.idempotency(new.owner, new.idempotency_key) if new.idempotency_key is not None else ""
    owner = new.owner
    chat = keys.chat(owner, new.chat_id) if new.chat_id is not None else ""
    names = [keys.meta(new.stream_id), keys.owner(owner), keys.active(owner), keys.rate(owner), idem, chat]
    bounds: list[Argument] = [limits.max_active, limits.per_minute]
    return START.arguments(names, _queued(new, limits, bounds, job, job_ttl_ms, retention_ms))


def start_reserved(new: NewStream, limits: Limits, *, job: bytes, job_ttl_ms: int, retention_ms: int) -> list[Argument]:
    """Arguments of START_RESERVED."""
    bounds: list[Argument] = [keys.CLUSTER.active(new.owner), 0]
    rest = _queued(new, limits, bounds, job, job_ttl_ms, retention_ms)
    return START_RESERVED.arguments([keys.meta(new.stream_id)], rest)


def _queued(
    new: NewStream, limits: Limits, bounds: list[Argument], job: bytes, job_ttl_ms: int, retention_ms: int
) -> list[Argument]:
    fields: list[Argument] = ["owner", new.owner, "model", new.model, "request", new.request]
    fields += ["on_disconnect", new.on_disconnect]
    if new.context:
        fields += ["context", new.context]
    if new.front:
        fields += ["front", new.front]
    if new.needs:
        fields += ["needs", new.needs]
    if new.metadata:
        fields += ["metadata", new.metadata]
    if new.must_notify:
        fields += ["notify", 0]
    queue: list[Argument] = [limits.max_bytes, limits.share_percent, len(new.request)]
    first: list[Argument] = [new.stream_id, new.fingerprint, limits.max_waiting, retention_ms, job, job_ttl_ms]
    return [*first, *bounds, new.parts, *queue, new.turn, *fields]


class StartReply(msgspec.Struct, frozen=True):
    """What became of it.

    `existing`: the Idempotency-Key was used for this stream; `conflict`: for another body; `overloaded`: `bound`
    generations wait; `share`: so many of the key's own, its share of those that may; `busy`: the key has its `bound` of
    streams under way; `limited`: it has started its `bound` this minute, the next one may come in `retry_ms`; `lost`:
    bytes of its parts are not there (any more). `remaining` starts of the minute (-1: no limit), whole in `reset_ms`.
    """

    outcome: Literal["started", "existing", "conflict", "overloaded", "share", "busy", "limited", "lost"]
    stream_id: str = ""
    bound: int = 0
    retry_ms: int = 0
    remaining: int = -1
    reset_ms: int = 0


def start_reply(reply: Any) -> StartReply:
    outcome = reply[0].decode()
    match outcome:
        case "started":
            return StartReply(outcome, reply[1].decode(), remaining=int(reply[2]), reset_ms=int(reply[3]))
        case "overloaded" | "share" | "busy":
            return StartReply(outcome, bound=int(reply[1]))
        case "limited":
            return StartReply(outcome, bound=int(reply[1]), retry_ms=int(reply[2]))
        case _:
            return StartReply(outcome, reply[1].decode())
